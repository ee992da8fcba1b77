package etcd

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// maxSocketPath is the longest path that fits into a sockaddr_un.
const maxSocketPath = 107

func parseURLs(texts []string) ([]url.URL, error) {
	var urls []url.URL
	for _, text := range texts {
		u, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("client URL: %w", err)
		}
		switch {
		case u.Scheme == "http":
			if _, _, err := net.SplitHostPort(u.Host); err != nil || u.Path != "" {
				return nil, fmt.Errorf("client URL %q: want http://ADDRESS:PORT", text)
			}
		case u.Scheme == "unix":
			path := u.Host + u.Path
			if u.Host != "" || path == "" {
				return nil, fmt.Errorf("client URL %q: want an absolute path, unix:///run/etcd.sock", text)
			}
			if len(path) > maxSocketPath {
				return nil, fmt.Errorf("client URL %q: a socket's path has at most %d bytes, this one has %d; use a shorter directory", text, maxSocketPath, len(path))
			}
		default:
			return nil, fmt.Errorf("client URL %q: the scheme is neither http nor unix", text)
		}
		urls = append(urls, *u)
	}
	return urls, nil
}

// checkFree looks for a living server behind a socket: etcd removes what
// stands at the path, which is right only for what a killed server left. A TCP
// port says so itself.
func checkFree(urls []url.URL) error {
	for _, u := range urls {
		if u.Scheme != "unix" {
			continue
		}
		fi, err := os.Lstat(u.Path)
		if err != nil {
			continue
		}
		if fi.Mode()&os.ModeSocket == 0 {
			return fmt.Errorf("client URL %s: %s is there and is not a socket; remove it", u.String(), u.Path)
		}
		c, err := net.DialTimeout("unix", u.Path, time.Second)
		if err == nil {
			c.Close()
			return fmt.Errorf("client URL %s: another server listens there; stop it, or choose another path", u.String())
		}
	}
	return nil
}

// endpoints is urls with the ports that the kernel chose for 0.
func endpoints(e *embed.Etcd, urls []url.URL) []string {
	var out []string
	for _, u := range urls {
		if u.Scheme == "http" && u.Port() == "0" {
			for _, l := range e.Clients {
				if a, ok := l.Addr().(*net.TCPAddr); ok && (u.Hostname() == a.IP.String()) {
					u.Host = a.String()
				}
			}
		}
		out = append(out, u.String())
	}
	return out
}
