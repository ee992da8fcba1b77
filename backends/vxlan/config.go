package vxlan

import (
	"encoding/json"
	"fmt"

	"labctl/backends"
)

// Config is flannel's options of the backend. Keys are compared without
// regard to case, and unknown ones are ignored, as flannel does.
type Config struct {
	VNI           int  // VXLAN network identifier, 24 bits
	Port          int  // UDP port of all hosts; 0 is the kernel's default
	MTU           int  // of the underlay; 0 is what the underlay's device has
	GBP           bool // group based policy extension
	Learning      bool // learn FDB entries from traffic
	DirectRouting bool // no tunnel between hosts on one layer 2 network
}

// kernelPort is Linux's default port. IANA's, 4789, came later.
const kernelPort = 8472

// NewConfig is the defaults.
func NewConfig() Config { return Config{VNI: 1, Port: kernelPort} }

// parseConfig reads the Backend object; nil is the defaults.
func parseConfig(options json.RawMessage) (Config, error) {
	c := NewConfig()
	if err := backends.ParseOptions(options, &c); err != nil {
		return Config{}, err
	}
	if c.Port == 0 {
		c.Port = kernelPort
	}
	return c, c.check()
}

func (c Config) check() error {
	const (
		maxVNI  = 1<<24 - 1
		nameLen = 15 // IFNAMSIZ, less the terminating zero
		least   = minMTU + overhead6
	)
	bad := func(field, hint, format string, args ...any) error {
		return &backends.ConfigError{Field: "Backend." + field, Text: fmt.Sprintf(format, args...), Hint: hint}
	}
	switch {
	case c.VNI < 0 || c.VNI > maxVNI:
		return bad("VNI", "use one from 1 to 9999999", "%d has more than 24 bits", c.VNI)
	case len(c.device()) > nameLen:
		return bad("VNI", "use one from 1 to 9999999", "%d makes a device name, %s, of more than %d characters", c.VNI, c.device(), nameLen)
	case c.Port < 0 || c.Port > 0xffff:
		return bad("Port", fmt.Sprintf("use %d", kernelPort), "%d is not a port", c.Port)
	case c.MTU < 0 || c.MTU > 0 && c.MTU < least:
		return bad("MTU", fmt.Sprintf("use %d or more, or leave it out", least), "%d is too small for a packet and what wraps it", c.MTU)
	}
	return nil
}

// minMTU is the least that an IPv4 device takes.
const minMTU = 68

func (c Config) device() string { return fmt.Sprintf("flannel.%d", c.VNI) }
