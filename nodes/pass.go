package nodes

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// memory is what a Reconciler put into the kernel, or found there as wanted,
// and therefore may remove. Routes are known by their protocol.
type memory struct {
	links            map[string]string // name to kind
	addrs            map[addrKey]bool
	neighbours       map[neighKey]bool
	fdb              map[fdbKey]bool
	tables           map[string]madeTable
	routes4, routes6 bool
}

func newMemory() memory {
	return memory{
		links: map[string]string{}, addrs: map[addrKey]bool{}, neighbours: map[neighKey]bool{},
		fdb: map[fdbKey]bool{}, tables: map[string]madeTable{},
	}
}

// pass is one look at the kernel: each kind is listed, compared and put right
// in turn, because putting one kind right changes the next ones (a link that
// goes down takes its routes along).
type pass struct {
	r         *Reconciler
	ctx       context.Context
	want      State
	down      map[string]bool // devices that are off on purpose
	dry       bool            // look only
	first     bool            // no pass has been applied before
	exclusive map[string]bool
	tablesOK  bool // the nftables tables are known to be untouched

	byName   map[string]netlink.Link
	byIndex  map[int]string
	noDevice map[string]bool // missing devices that have been told
	created  bool            // a device was made
	fresh    map[string]bool // the devices made in this pass
	round    int             // of the links

	found, done, failed, foreign []Change
	errs                         []error
	queued                       []queued
}

// queued is a difference that flush puts right.
type queued struct {
	change  Change
	verb    string
	request request
	done    func() // called when it was; may be nil
}

// run does the pass. The order is that of dependence.
func (p *pass) run() {
	defer func() {
		if len(p.failed) > 0 {
			p.r.drop(allLists()) // what is there now is not known
		}
	}()
	// Settings that new devices inherit come before the devices, the devices'
	// own after them; most passes make no device and do both at once.
	if !p.listLinks() {
		return
	}
	complete := true
	for _, l := range p.want.Links {
		complete = complete && p.byName[l.LinkName()] != nil
	}
	p.sysctls(complete, true)
	p.links()
	if !complete || p.created {
		p.sysctls(true, false)
	}
	p.addrs()
	if len(p.found) > 0 {
		// Devices, addresses and settings take routes and entries along, or bring
		// some.
		p.r.drop(lists{fdb: true, routes: true})
	}
	for _, stage := range []func(){p.neighbours, p.fdb, p.routes, p.tables} {
		if err := p.ctx.Err(); err != nil {
			p.errs = append(p.errs, err)
			return
		}
		stage()
	}
}

// firstLook says that there may be stale state on Exclusive devices.
func (p *pass) firstLook() bool { return p.first && len(p.exclusive) > 0 }

// do notes a difference and, unless the pass only looks, puts it right.
func (p *pass) do(c Change, verb string, f func() error) bool {
	p.found = append(p.found, c)
	if p.dry || p.ctx.Err() != nil || slices.Contains(p.failed, c) {
		return false
	}
	return p.settle(c, verb, f())
}

// settle notes what became of a difference that was to be put right.
func (p *pass) settle(c Change, verb string, err error) bool {
	if err == nil {
		p.done = append(p.done, c)
		return true
	}
	p.failed = append(p.failed, c)
	object := c.Object
	if c.Kind == "address" || c.Kind == "neighbour" || c.Kind == "fdb" {
		object += " " + c.Detail
	}
	if c.Kind != "link" {
		object = c.Kind + " " + object
	}
	p.fail(object, verb, err)
	return false
}

// later notes a difference and, unless the pass only looks, has flush put it
// right together with others.
func (p *pass) later(q queued) {
	p.found = append(p.found, q.change)
	if !p.dry && p.ctx.Err() == nil {
		p.queued = append(p.queued, q)
	}
}

// flush puts right what later has noted.
func (p *pass) flush() {
	list := p.queued
	p.queued = p.queued[:0] // for the next kind, which has as many
	p.done = slices.Grow(p.done, len(list))
	requests := make([]request, len(list))
	for i, q := range list {
		requests[i] = q.request
	}
	told := 0
	result := func(i int, err error) {
		told++
		q := list[i]
		p.settle(q.change, q.verb, err)
		if err == nil && q.done != nil {
			q.done()
		}
	}
	if err := p.r.batch.send(requests, result); err != nil {
		for i := told; i < len(list); i++ {
			result(i, err)
		}
	}
}

// telling are the errors of the pass for a person to read. Where this kernel
// lacks something that is all: most others follow from it, and what does not
// comes up once that is mended.
func (p *pass) telling() []error {
	for _, err := range p.errs {
		if _, ok := errors.AsType[*MissingError](err); ok {
			return []error{err}
		}
	}
	return p.errs
}

// lacking is the error of a link whose kind this kernel does not know.
func lacking(kind string, err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return &MissingError{kind, "modprobe " + kind + " (as root), or a kernel that has it", err}
	}
	return err
}

func (p *pass) fail(object, verb string, err error) {
	p.errs = append(p.errs, fmt.Errorf("%s: %s: %s: %w", p.r.ns.name, object, verb, err))
}

// device returns the index of a device that change c needs. A missing device
// is an error once, however many changes need it.
func (p *pass) device(c Change, name string) (int, bool) {
	if l := p.byName[name]; l != nil {
		return l.Attrs().Index, true
	}
	p.missing(c, name)
	return 0, false
}

// missing notes a difference that cannot be put right without a device.
func (p *pass) missing(c Change, dev string) {
	p.found = append(p.found, c)
	if p.dry {
		return
	}
	p.failed = append(p.failed, c)
	if !p.noDevice[dev] {
		p.noDevice[dev] = true
		p.errs = append(p.errs, fmt.Errorf("%s: %s: %w", p.r.ns.name, dev, errNoDevice))
	}
}

// errNoDevice reads as the kernel's own words do.
var errNoDevice error = unix.ENODEV

// diff is what the pass did or, if it only looked, what there is to do.
func (p *pass) diff() Diff {
	switch {
	case p == nil:
		return Diff{}
	case p.dry:
		return Diff{Changes: p.found, Foreign: p.foreign}
	}
	return Diff{Changes: p.done, Foreign: p.foreign}
}
