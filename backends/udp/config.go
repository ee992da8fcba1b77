package udp

import (
	"encoding/json"
	"fmt"
	"strings"

	"labctl/backends"
	"labctl/backends/internal/datapath"
)

// Config is flannel's option of the backend, Port, and two of our own, which
// flannel ignores. Keys are compared without regard to case.
type Config struct {
	Port int // UDP port of all hosts
	// Level is how packets are handed to the kernel: "plain", "batch", "gso",
	// or "auto" for the highest that works here.
	Level string
	// VerifySource drops what no peer sent, or what a peer had no business to
	// send. Without it anyone who reaches the port is believed, as in flannel.
	VerifySource bool
}

const defaultPort = 8285

// NewConfig is the defaults.
func NewConfig() Config { return Config{Port: defaultPort, Level: datapath.Auto, VerifySource: true} }

// parseConfig reads the Backend object; nil is the defaults.
func parseConfig(options json.RawMessage) (Config, error) {
	c := NewConfig()
	if err := backends.ParseOptions(options, &c); err != nil {
		return Config{}, err
	}
	if c.Port == 0 {
		c.Port = defaultPort
	}
	c.Level = strings.ToLower(c.Level)
	if c.Level == "" {
		c.Level = datapath.Auto
	}
	return c, c.check()
}

func (c Config) check() error {
	bad := func(field, hint, format string, args ...any) error {
		return &backends.ConfigError{Field: "Backend." + field, Text: fmt.Sprintf(format, args...), Hint: hint}
	}
	if c.Port < 0 || c.Port > 0xffff {
		return bad("Port", fmt.Sprintf("use %d", defaultPort), "%d is not a port", c.Port)
	}
	if _, ok := datapath.ParseLevel(c.Level); !ok && c.Level != datapath.Auto {
		return bad("Level", "use auto, plain, batch or gso", "%q is not a level", c.Level)
	}
	return nil
}
