package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"
	"labctl/backends"
	"labctl/backends/calico"
	"labctl/lab/internal/rpc"
)

// ProcessConfig is what the store's process is told.
type ProcessConfig struct {
	Dir     string   `json:"dir"`
	Clients []string `json:"clients"` // URLs to listen on
	// Network is flannel's network config, stored as it is, and Reservations
	// its keys without TTL. What is stored already stays.
	Network json.RawMessage `json:"network,omitempty"`
	// Calico is a Calico network instead; Reservations are then blocks.
	Calico       *calico.Config `json:"calico,omitempty"`
	Reservations []Reservation  `json:"reservations,omitempty"`
}

// Reservation pins a subnet to the host with PublicIP, which Calico knows as
// Node.
type Reservation struct {
	Subnet   netip.Prefix `json:"subnet"`
	PublicIP netip.Addr   `json:"publicIP"`
	Node     string       `json:"node,omitempty"`
}

// Ready is what the process tells the supervisor, once.
type Ready struct {
	Ready bool `json:"ready"`
}

// Run is the store's process: it serves until ctx ends, the supervisor is gone
// (the other end of control, a unix socket) or the server gives up.
func Run(ctx context.Context, c ProcessConfig, controlFile *os.File) error {
	control, err := rpc.FromFile(controlFile)
	if err != nil {
		return err
	}
	defer control.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := Start(ctx, Config{Dir: c.Dir, ClientURLs: c.Clients})
	if err != nil {
		return err
	}
	defer s.Close()
	prepare := c.flannel
	if c.Calico != nil {
		prepare = c.calico
	}
	if err := prepare(ctx, s.Client()); err != nil {
		return err
	}
	if err := control.Send(Ready{Ready: true}); err != nil {
		return fmt.Errorf("control stream: %w", err)
	}
	go func() {
		defer cancel()
		for {
			var ignored struct{}
			if _, err := control.Receive(&ignored); err != nil {
				return
			}
		}
	}()
	select {
	case <-ctx.Done():
		return nil
	case <-s.Done():
		return errors.Join(errors.New("etcd: ended"), s.Err())
	}
}

// flannel writes flannel's keys. A restarted store keeps what somebody has
// written since.
func (c ProcessConfig) flannel(ctx context.Context, client *clientv3.Client) error {
	store := backends.NewStore(client)
	if len(c.Network) > 0 {
		if err := store.PutConfigOnce(ctx, c.Network); err != nil {
			return err
		}
	}
	for _, r := range c.Reservations {
		if err := store.Reserve(ctx, r.Subnet, r.PublicIP); err != nil {
			return fmt.Errorf("reservation %s: %w", r.Subnet, err)
		}
	}
	return nil
}

// calico writes Calico's, in the same way.
func (c ProcessConfig) calico(ctx context.Context, client *clientv3.Client) error {
	store := calico.NewStore(client)
	if err := store.PutConfigOnce(ctx, *c.Calico); err != nil {
		return err
	}
	for _, r := range c.Reservations {
		if err := store.Reserve(ctx, r.Subnet, r.Node); err != nil {
			return fmt.Errorf("reservation %s: %w", r.Subnet, err)
		}
	}
	return nil
}
