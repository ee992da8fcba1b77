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

// etcdArgv is how the store of a plan is started.
func (s *Supervisor) etcdArgv(plan *lab.Plan) ([]string, error) {
	conf := etcd.ProcessConfig{
		Dir:     s.dir.Etcd(),
		Clients: append([]string{"unix://" + s.dir.EtcdSocket()}, plan.Etcd.Endpoints...),
		Network: plan.Network,
		Calico:  plan.Calico,
	}
	for _, r := range plan.Etcd.Reservations {
		conf.Reservations = append(conf.Reservations, etcd.Reservation(r))
	}
	b, err := json.Marshal(conf)
	return []string{"labctl", "__etcd", string(b)}, err
}

// newEtcd describes the store's process. It is started by keep.
func (s *Supervisor) newEtcd() (*process, error) {
	argv, err := s.etcdArgv(s.current())
	if err != nil {
		return nil, err
	}
	p := &process{
		name: etcdName, ns: s.at(etcdName).ns, s: s, state: waiting,
		argv: argv,
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
	p.ended = func() {
		s.resumed(etcdName) // it is dead
		ready(false)
	}
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
