package supervisor

import (
	"io"
	"net"
	"net/http"
	"time"
)

// newWeb is the server behind the ports that an endpoint serves: it says whom
// it sees, which is how NAT shows.
func newWeb() *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host, _, err := net.SplitHostPort(r.RemoteAddr)
			if err != nil {
				host = r.RemoteAddr
			}
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			io.WriteString(w, host+"\n")
		}),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       5 * time.Second,
	}
}
