package supervisor

import (
	"encoding/json"
	"errors"
	"io"
	"os"

	"labctl/lab"
	"labctl/lab/etcd"
	"labctl/lab/internal/rpc"
)

// etcdName is the store's endpoint and process.
const etcdName = "etcd"

// newEtcd describes the store's process. It is started by keep.
func (s *Supervisor) newEtcd() (*process, error) {
	conf := etcd.ProcessConfig{
		Dir:     s.dir.Etcd(),
		Clients: append([]string{"unix://" + s.dir.EtcdSocket()}, s.plan.Etcd.Endpoints...),
		Network: s.plan.Network,
	}
	for _, r := range s.plan.Etcd.Reservations {
		conf.Reservations = append(conf.Reservations, etcd.Reservation(r))
	}
	b, err := json.Marshal(conf)
	if err != nil {
		return nil, err
	}
	p := &process{
		name: etcdName, ns: s.endpoints[etcdName].ns, log: s.dir.Log(etcdName), s: s, state: waiting,
		argv: []string{"labctl", "__etcd", string(b)},
		env:  os.Environ(),
	}
	ready := func(on bool) {
		if on {
			s.outside.storeAnswers()
		}
		s.mu.Lock()
		first := on && s.state == lab.Starting
		s.etcdReady = on
		for _, h := range s.hosts {
			s.order(h)
		}
		s.mu.Unlock()
		if first {
			s.emit(lab.Event{Step: "etcd answers"})
		}
		s.poke()
	}
	p.ended = func() { ready(false) }
	p.message = func(c *rpc.Conn) error {
		for {
			var r etcd.Ready
			if _, err := c.Receive(&r); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			ready(true)
		}
	}
	return p, nil
}
