package lab

import (
	"encoding/json"
	"fmt"
	"strings"

	"labctl/backends"
	"labctl/backends/catalogue"
)

// UseBackend gives the lab another backend, with its defaults: options of the
// one before mean nothing to it. The same hosts and containers then show what
// the backend makes of them.
func (s *Spec) UseBackend(typ string) error {
	if len(s.Network) == 0 {
		return fmt.Errorf("backend %s: the lab has no network, and its nodes no agents", typ)
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
