package peer

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits of control requests. A handler whose answer takes longer extends its own deadlines with http.ResponseController.
const (
	controlReadTimeout    = 30 * time.Second
	controlWriteTimeout   = 60 * time.Second
	controlIdleTimeout    = 2 * time.Minute
	controlHeaderBytesMax = 64 << 10
	controlBodyBytesMax   = 16 << 20
	controlConnsPerPeer   = 8
)

// controlServer serves the connections of a connQueue, whose handshakes are done.
func controlServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           http.MaxBytesHandler(h, controlBodyBytesMax),
		ReadHeaderTimeout: controlReadTimeout / 3,
		ReadTimeout:       controlReadTimeout,
		WriteTimeout:      controlWriteTimeout,
		IdleTimeout:       controlIdleTimeout,
		MaxHeaderBytes:    controlHeaderBytesMax,
		ErrorLog:          log.New(io.Discard, "", 0),
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1 only
	}
}

// NodeOf is the node that a control request comes from, as its verified certificate says; "" if it has none.
func NodeOf(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 { // what comes to Control was verified in the handshake
		return ""
	}
	_, node, err := names(r.TLS.PeerCertificates[0])
	if err != nil {
		return ""
	}
	return node
}

// HTTPClient sends control requests to a node at that address; the host in the URL is of no account ("https://node/…").
// Every request needs a context that ends. CloseIdleConnections when it is no longer needed.
func HTTPClient(id Identity, wantNode, addr string, o Options) *http.Client {
	o = o.withDefaults()
	return &http.Client{Transport: &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			rec, t, err := dialTLS(ctx, addr, wantNode, alpnControl, id, o)
			if err != nil {
				return nil, err
			}
			rec.passThrough()
			return t, nil
		},
		MaxConnsPerHost:        controlConnsPerPeer,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        controlIdleTimeout / 2,
		MaxResponseHeaderBytes: controlHeaderBytesMax,
		DisableCompression:     true,
	}}
}

// connQueue is a net.Listener of connections that arrived elsewhere.
type connQueue struct {
	addr net.Addr
	come chan net.Conn
	done chan struct{}
	once sync.Once
}

func newConnQueue(addr net.Addr) *connQueue {
	return &connQueue{addr: addr, come: make(chan net.Conn), done: make(chan struct{})}
}

// put gives a connection to Accept; gone is called when it is closed.
func (q *connQueue) put(t *tls.Conn, gone func()) {
	rc := t.NetConn().(*recordConn)
	rc.closed = gone
	select {
	case q.come <- t:
	case <-q.done:
		t.Close()
	}
}

func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case conn := <-q.come:
		return conn, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *connQueue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *connQueue) Addr() net.Addr { return q.addr }
