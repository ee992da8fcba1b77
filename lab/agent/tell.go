package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"labctl/backends"
	"labctl/nodes"
)

// ErrUnsupported means that this machine lacks what the backend needs.
var ErrUnsupported = errors.New("this machine cannot")

// unsupported is an error that is ErrUnsupported, too.
type unsupported struct{ error }

func (e unsupported) Unwrap() error        { return e.error }
func (e unsupported) Is(target error) bool { return target == ErrUnsupported }

// teller is what was told of the kernel so far, to a person who reads the log.
type teller struct {
	ready  bool      // the service manager knows
	err    string    // of the last pass
	healed time.Time // the newest
}

// tell says what became of the last pass: in the log, and once to the service
// manager that all is ready. In a lab the supervisor tells it. The error is one
// that does not pass.
func (a *Agent) tell() error {
	if a.control != nil {
		return nil
	}
	ready := a.health().Ready
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.reconciler.Report()
	if r.Unsupported {
		return unsupported{fmt.Errorf("%s: %s", a.Node, r.Err)}
	}
	if r.Err != a.teller.err {
		a.teller.err = r.Err
		if r.Err != "" {
			a.Log.Warn("kernel", "err", r.Err)
		} else {
			a.Log.Info("kernel is as it should be")
		}
	}
	for _, h := range r.Healed {
		if h.At.After(a.teller.healed) {
			a.Log.Info("healed", "what", h.Change.String())
		}
	}
	if n := len(r.Healed); n > 0 {
		a.teller.healed = r.Healed[n-1].At
	}
	if ready && !a.teller.ready {
		a.teller.ready = true
		a.Log.Info("ready", "subnet", a.report.Subnet, "file", a.SubnetFile)
		if err := notify(a.Notify, "READY=1"); err != nil {
			a.Log.Warn("service manager", "err", err)
		}
	}
	return nil
}

// notify is sd_notify(3): one datagram. Without a socket it does nothing.
func notify(socket, state string) error {
	if socket == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}

// trafficRules is flannel's, as far as they are wanted.
func (a *flannelSystem) trafficRules(subnet netip.Prefix) []nodes.Table {
	t := backends.TrafficRules(a.network.Network, subnet, a.IPMasq)
	if a.NoForward {
		var nat []nodes.Chain
		for _, c := range t.Chains {
			if c.Hook != nodes.Forward {
				nat = append(nat, c)
			}
		}
		t.Chains = nat
	}
	if len(t.Chains) == 0 {
		return nil
	}
	return []nodes.Table{t}
}
