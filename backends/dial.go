package backends

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
)

// Access is how the store is reached: where it is, how it proves who it is,
// and how we do.
type Access struct {
	Endpoints []string // http://192.168.50.254:2379, https://..., unix:///run/.../etcd.sock
	// CAFile has the certificates that sign etcd's, in PEM; "" for those that
	// the machine trusts. CertFile and KeyFile are our own, read again for each
	// connection, so that a renewed certificate needs no restart.
	CAFile, CertFile, KeyFile string
	Username, Password        string // of etcd's own users; "" for none
	// Observe, when not nil, is told the outcome of every single call, nil for
	// one that was answered. It must not block.
	Observe func(error)
}

// AccessError says what is wrong with an Access, and how to mend it.
type AccessError struct {
	What, Cure string
}

func (e *AccessError) Error() string { return "etcd: " + e.What }

// Dial returns the store at the endpoints, without encryption or user. It does
// not wait for a connection: that is made and made again in the background,
// until Close.
func Dial(endpoints []string) (*Store, error) { return Access{Endpoints: endpoints}.Dial() }

// Dial returns the store. Without a user it does not wait for a connection; a
// user logs in first, and then an error other than an *AccessError is worth
// another try.
func (a Access) Dial() (*Store, error) {
	c, err := a.Client()
	if err != nil {
		return nil, err
	}
	return &Store{client: c, prefix: DefaultPrefix, owned: true}, nil
}

// Client is Dial for another contract than flannel's. The caller closes it.
func (a Access) Client() (*clientv3.Client, error) {
	conf, err := a.config()
	if err != nil {
		return nil, err
	}
	c, err := clientv3.New(conf)
	if err != nil {
		return nil, fmt.Errorf("etcd %s: %w", strings.Join(a.Endpoints, ","), err)
	}
	return c, nil
}

func (a Access) config() (clientv3.Config, error) {
	tlsConf, err := a.tls()
	if err != nil {
		return clientv3.Config{}, err
	}
	if (a.Username == "") != (a.Password == "") {
		return clientv3.Config{}, &AccessError{"a user needs both name and password", "give both, or neither"}
	}
	conf := clientv3.Config{
		Endpoints: a.Endpoints,
		TLS:       tlsConf,
		Username:  a.Username,
		Password:  a.Password,
		Logger:    zap.NewNop(), // its default writes to stderr
		// A peer that vanished without a FIN (a link taken down) is noticed
		// after 15 s. Servers refuse pings more often than every 5 s.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{
				// gRPC's base delay of 1 s would be a second of every start
				// that is faster than etcd's own.
				Backoff: grpcbackoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
				// A SYN lost to a link that was down is sent again by a new
				// attempt, not by TCP's doubling timer.
				MinConnectTimeout: 2 * time.Second,
			}),
			grpc.WithNoProxy(),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(newFrugal())),
		},
	}
	if a.Username != "" {
		conf.DialTimeout = callTimeout // of the log-in, which else has none
	}
	if a.Observe != nil {
		conf.DialOptions = append(conf.DialOptions, grpc.WithChainUnaryInterceptor(a.observe))
	}
	return conf, nil
}

// observe sits below etcd's own retries, so it sees every attempt.
func (a Access) observe(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := call(ctx, method, req, reply, cc, opts...)
	if !errors.Is(ctx.Err(), context.Canceled) { // by ourselves
		a.Observe(err)
	}
	return err
}

// tls is nil when the endpoints are not encrypted.
func (a Access) tls() (*tls.Config, error) {
	encrypted, err := a.encrypted()
	if err != nil {
		return nil, err
	}
	files := a.CAFile + a.CertFile + a.KeyFile
	switch {
	case (a.CertFile == "") != (a.KeyFile == ""):
		return nil, &AccessError{"a certificate needs its key, and a key its certificate", "give both files, or neither"}
	case !encrypted && files != "":
		return nil, &AccessError{fmt.Sprintf("%s is not encrypted, but certificates are given", strings.Join(a.Endpoints, ",")),
			"write https:// in the endpoints, or leave out the files"}
	case !encrypted:
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.CAFile != "" {
		pem, err := os.ReadFile(a.CAFile)
		if err != nil {
			return nil, &AccessError{fmt.Sprintf("CA: %v", err), "give the file with the cluster's CA certificate"}
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &AccessError{fmt.Sprintf("CA: %s has no certificate in PEM", a.CAFile), "give the file with the cluster's CA certificate"}
		}
	}
	if a.CertFile != "" {
		own := func() (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile)
			return &c, err
		}
		if _, err := own(); err != nil {
			return nil, &AccessError{fmt.Sprintf("certificate: %v", err), "give a certificate and its key, both in PEM"}
		}
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own() }
	}
	return conf, nil
}

// encrypted checks the endpoints. etcd's client decides by the first one
// whether to encrypt, so they must be alike.
func (a Access) encrypted() (bool, error) {
	if len(a.Endpoints) == 0 {
		return false, &AccessError{"no endpoints", "give at least one, like http://127.0.0.1:2379"}
	}
	count := 0
	for _, e := range a.Endpoints {
		u, err := url.Parse(e)
		switch {
		case err != nil || u.Scheme == "unix" && u.Path == "" || u.Scheme != "unix" && u.Host == "":
			return false, &AccessError{fmt.Sprintf("endpoint %q is no URL", e), "write it like http://127.0.0.1:2379"}
		case u.Scheme == "https":
			count++
		case u.Scheme != "http" && u.Scheme != "unix":
			return false, &AccessError{fmt.Sprintf("endpoint %q begins with neither http:// nor https://", e), "write it like http://127.0.0.1:2379"}
		}
	}
	if count > 0 && count < len(a.Endpoints) {
		return false, &AccessError{"some endpoints are encrypted, others are not", "write all with https://, or all with http://"}
	}
	return count > 0, nil
}
