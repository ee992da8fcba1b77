package lab

import (
	"encoding/json"
	"fmt"
	"strings"

	"labctl/backends"
	"labctl/backends/calico"
	"labctl/backends/catalogue"
)

// UseBackend gives the lab another backend, with its defaults: options of the
// one before mean nothing to it. The same hosts and containers then show what
// the backend makes of them.
func (s *Spec) UseBackend(typ string) error {
	switch {
	case s.Calico != nil && typ == s.Calico.config().Backend():
		return nil
	case s.Calico != nil:
		return fmt.Errorf("backend %s: %s is a Calico lab, whose backend is %s", typ, s.Name, s.Calico.config().Backend())
	case len(s.Network) == 0:
		return fmt.Errorf("backend %s: the lab has no network, and its nodes no agents", typ)
	}
	for _, e := range calico.Encapsulations() {
		if typ == (calico.Config{Encapsulation: e}).Backend() {
			return s.useCalico(typ, e)
		}
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(s.Network, &fields); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	for key := range fields {
		if strings.EqualFold(key, "backend") {
			delete(fields, key)
		}
	}
	b, err := json.Marshal(map[string]string{"Type": typ})
	if err != nil {
		return err
	}
	fields["Backend"] = b
	raw, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	n, err := backends.ParseNetwork(raw)
	if err != nil {
		return err
	}
	if _, err := catalogue.New(n); err != nil {
		return err
	}
	s.Network = raw
	return nil
}

// useCalico makes a flannel lab one of Calico's: the network becomes the pool,
// its subnets become blocks, and bridges go.
func (s *Spec) useCalico(typ string, e calico.Encapsulation) error {
	n, err := backends.ParseNetwork(s.Network)
	if err != nil {
		return err
	}
	for _, node := range s.Nodes {
		if node.Agent != nil {
			return fmt.Errorf("backend %s: %s runs an agent of its own, which speaks flannel's contract", typ, node.Name)
		}
	}
	s.Network, s.LeaseTTL = nil, 0
	s.Calico = &CalicoSpec{Pool: n.Network, BlockSize: n.SubnetLen, Encapsulation: string(e), NATOutgoing: On}
	for i := range s.Nodes {
		s.Nodes[i].Bridge, s.Nodes[i].Wiring = "", ""
	}
	return nil
}
