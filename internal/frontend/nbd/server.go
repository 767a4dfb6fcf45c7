// Package nbd offers block devices to applications by the NBD protocol (fixed newstyle), on unix sockets and on TCP.
//
// The life of a connection: a handshake picks an export; then one goroutine, the reader, parses all requests that have
// arrived, submits them to the export's device as one batch, and sends the replies that are there already. Replies
// that the device gives later are queued by Complete and sent by Flush in whichever goroutine the device calls them: one
// system call that never blocks. Only what the socket does not take at once is left to the connection's second goroutine,
// the sender, which is asleep otherwise. In steady state no request allocates, and payload is copied at most once, and
// that only if it came together with other requests.
//
// Everything a stranger can make the server hold is bounded: connections, the time and the bytes of a handshake,
// requests in flight and their payload bytes.
package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"keelson/internal/block"
)

// Options of a server; zero values mean the defaults.
type Options struct {
	Log              *slog.Logger
	InFlightBytesMax int64         // payload of a connection's requests not yet answered; default 64 MiB
	RequestsMax      int           // a connection's requests not yet answered; default 1024
	ConnectionsMax   int           // of the server, handshakes included; default 256
	HandshakeTimeout time.Duration // for a whole handshake; default 10 s
	DrainTimeout     time.Duration // how long an end waits for a client that does not read its replies; default 5 s
	TLS              *tls.Config   // offered by STARTTLS if set
	TLSRequired      bool          // refuse everything without TLS, except on unix sockets, which file permissions guard
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.InFlightBytesMax, 64<<20)
	setDefault(&o.RequestsMax, 1024)
	setDefault(&o.ConnectionsMax, 256)
	setDefault(&o.HandshakeTimeout, 10*time.Second)
	setDefault(&o.DrainTimeout, 5*time.Second)
	return o
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// ExportOptions of one export.
type ExportOptions struct {
	ReadOnly    bool
	Description string // shown to clients that ask, at most 4096 bytes
	ByNameOnly  bool   // never what a client means that gives no name
}

// ConnInfo says who uses an export.
type ConnInfo struct {
	Remote string // address, or the process at the other end of a unix socket
	Since  time.Time
	TLS    bool
}

// Server serves exports on any number of listeners. All methods may be called concurrently.
type Server struct {
	opts Options

	mu        sync.Mutex
	exports   map[string]*export
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
	closed    bool
	full      bool // the last connection was refused because there were too many
	left      map[netip.Addr]struct{}
}

// export is a device under a name. It is never changed after it was made.
type export struct {
	name string
	dev  block.Device
	opts ExportOptions
}

// Errors of the server.
var (
	ErrClosed     = errors.New("nbd: the server is closed")
	ErrExists     = errors.New("an export of that name exists")
	ErrNotThere   = errors.New("no export of that name")
	ErrStillInUse = errors.New("requests are still with the device")
)

// NewServer returns a server without exports and listeners.
func NewServer(o Options) *Server {
	return &Server{
		opts:      o.withDefaults(),
		exports:   map[string]*export{},
		conns:     map[*conn]struct{}{},
		listeners: map[net.Listener]struct{}{},
		left:      map[netip.Addr]struct{}{},
	}
}

// AddExport offers the device under that name.
func (s *Server) AddExport(name string, dev block.Device, o ExportOptions) error {
	if len(name) > nameBytesMax || len(o.Description) > nameBytesMax {
		return fmt.Errorf("nbd: export %.40q: name and description have at most %d bytes", name, nameBytesMax)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("nbd: export %q: %w", name, ErrClosed)
	}
	if s.exports[name] != nil {
		return fmt.Errorf("nbd: export %q: %w", name, ErrExists)
	}
	s.exports[name] = &export{name, dev, o}
	return nil
}

// RemoveExport lets nobody in any more and ends the export's connections: nothing further is read from them, requests
// in flight are waited for (the caller has made the device end them) and their replies sent, but for those that ended with
// block.ErrShutdown, and then they are closed. It returns when their goroutines are gone. A client that does not take its replies within
// Options.DrainTimeout is cut; a device that keeps a request for twice as long is ErrStillInUse.
func (s *Server) RemoveExport(name string) error {
	s.mu.Lock()
	e := s.exports[name]
	delete(s.exports, name)
	conns := s.connsOf(e)
	s.mu.Unlock()
	if e == nil {
		return fmt.Errorf("nbd: export %q: %w", name, ErrNotThere)
	}
	if left := s.end(conns); left > 0 {
		return fmt.Errorf("nbd: export %q: %d connections: %w", name, left, ErrStillInUse)
	}
	return nil
}

// Recheck cuts the connections of clients whose certificates judge refuses now, handshakes included.
func (s *Server) Recheck(judge func(*x509.Certificate) error) {
	s.mu.Lock()
	var out []*conn
	for c := range s.conns {
		if c.cert != nil {
			if err := judge(c.cert); err != nil {
				c.log.Info("connection ended", "err", err)
				out = append(out, c)
			}
		}
	}
	s.mu.Unlock()
	for _, c := range out {
		c.cut()
	}
}

// Connections lists who uses the export now, longest first.
func (s *Server) Connections(name string) []ConnInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []ConnInfo
	if e := s.exports[name]; e != nil {
		for _, c := range s.connsOf(e) {
			out = append(out, c.info)
		}
	}
	slices.SortFunc(out, func(a, b ConnInfo) int { return a.Since.Compare(b.Since) })
	return out
}

// connsOf returns the connections that use e. The caller holds mu.
func (s *Server) connsOf(e *export) []*conn {
	var out []*conn
	for c := range s.conns {
		if e != nil && c.exp == e {
			out = append(out, c)
		}
	}
	return out
}

// end ends the connections and returns how many are left after the limits.
func (s *Server) end(conns []*conn) (left int) {
	for _, c := range conns {
		c.drain()
	}
	if conns = waitGone(conns, s.opts.DrainTimeout); len(conns) == 0 {
		return 0
	}
	for _, c := range conns {
		c.cut()
	}
	return len(waitGone(conns, s.opts.DrainTimeout))
}

// waitGone returns the connections that still run after that time.
func waitGone(conns []*conn, limit time.Duration) (left []*conn) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for i, c := range conns {
		select {
		case <-c.done:
		case <-timer.C:
			for _, c := range conns[i:] {
				select {
				case <-c.done:
				default:
					left = append(left, c)
				}
			}
			return left
		}
	}
	return nil
}

// find returns the export that a client means by that name: the empty one means the only export there is, besides those
// that are found by name only.
func (s *Server) find(name string) (*export, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookup(name)
}

// lookup is find for who holds mu.
func (s *Server) lookup(name string) (*export, error) {
	if e := s.exports[name]; e != nil {
		return e, nil
	}
	var only *export
	unnamed := 0
	for _, e := range s.exports {
		if !e.opts.ByNameOnly {
			only = e
			unnamed++
		}
	}
	if name == "" && unnamed == 1 {
		return only, nil
	}
	if len(s.exports) == 0 {
		return nil, fmt.Errorf("no volume is served here now, %q neither: look for its source", name)
	}
	return nil, fmt.Errorf("no export %q is served here: list the exports, or look for its source", name)
}

// attach binds the connection to the export that the name means, so that RemoveExport finds it.
func (s *Server) attach(c *conn, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.lookup(name)
	if err != nil {
		return err
	}
	c.exp = e
	c.info.TLS = c.tls
	return nil
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *Server) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.exports))
	for name := range s.exports {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
