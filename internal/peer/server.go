package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"keelson/internal/wire"
)

// Limits of the port.
const (
	connsMax   = 1024 // that finished the handshake; one more is closed
	acceptWait = 50 * time.Millisecond

	lastWordsWait  = 200 * time.Millisecond // how long a peer that is not let in may take to hang up
	lastWordsBytes = 64 << 10
)

// Handlers are what the port is for.
type Handlers struct {
	// Stream gets a Conn whose hello was read and checked: protocol, cluster, and that the node in it is the certificate's.
	// It runs in a goroutine of its own, answers with Accept or Refuse, and uses the Conn until it returns; then the
	// server closes it.
	Stream func(c *Conn, hello wire.Hello)
	// Control serves requests; NodeOf says from whom.
	Control http.Handler
	// Join answers a request to be admitted, of at most JoinBytesMax, from somebody without a certificate; nil: nobody is.
	// ctx ends with the connection's time.
	Join func(ctx context.Context, addr string, request []byte) (answer []byte)
	// Rejected, if set, hears of connections that did not get so far: for the log. It must not block.
	Rejected func(addr string, err error)
}

// Server is the port where peers arrive.
type Server struct {
	id   Identity
	h    Handlers
	o    Options
	ln   net.Listener
	http *http.Server
	web  *connQueue

	config *tls.Config
	joins  *joinLimit

	mu      sync.Mutex
	closed  bool
	waiting []net.Conn         // handshakes in flight, oldest first
	streams map[*Conn]struct{} // that a handler has
	conns   int                // after the handshake
	wg      sync.WaitGroup
}

// Listen opens the port. Close ends it.
func Listen(addr string, id Identity, h Handlers, o Options) (*Server, error) {
	o = o.withDefaults()
	ln, err := o.Network.Listen(addr)
	if err != nil {
		return nil, fmt.Errorf("port for peers, %s: %w; choose another address in the configuration, or look who has it", addr, err)
	}
	s := &Server{id: id, h: h, o: o, ln: ln, streams: make(map[*Conn]struct{}), config: serverTLS(id), joins: newJoinLimit()}
	if h.Join != nil {
		s.config.GetConfigForClient = joinTLS(id)
	}
	s.web = newConnQueue(ln.Addr())
	s.http = controlServer(s.counted(h.Control))
	s.wg.Go(func() { _ = s.http.Serve(s.web) }) // ends with Close
	s.wg.Go(s.accept)
	return s, nil
}

// Addr is the address of the port.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// counted makes Close wait for the requests that are being answered; their contexts end with their connections.
func (s *Server) counted(h http.Handler) http.Handler {
	if h == nil {
		h = http.NotFoundHandler()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			http.Error(w, errClosing.Error(), http.StatusServiceUnavailable)
			return
		}
		s.wg.Add(1)
		s.mu.Unlock()
		defer s.wg.Done()
		h.ServeHTTP(w, r)
	})
}

// Close closes the port, all streams and control connections, and waits for the handlers to return: a stream's handler
// when its Conn is Done, a control handler when the request's context is.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, conn := range s.waiting {
		conn.Close()
	}
	streams := make([]*Conn, 0, len(s.streams))
	for c := range s.streams {
		streams = append(streams, c)
	}
	s.mu.Unlock()
	err := s.ln.Close()
	for _, c := range streams {
		c.fail(&ClosedError{c.peer, errClosing})
	}
	s.http.Close()
	s.web.Close()
	s.wg.Wait()
	return err
}

var errClosing = errors.New("this agent stops")

func (s *Server) accept() {
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.rejected("", fmt.Errorf("port for peers: %w", err))
			time.Sleep(acceptWait) // out of descriptors: let others end
			continue
		}
		if !s.enter(conn) {
			conn.Close()
			return
		}
		s.wg.Go(func() { s.serve(conn.(Socket)) })
	}
}

// enter notes a handshake, and cuts the oldest if there are too many: strangers that say nothing cannot keep peers out.
func (s *Server) enter(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if len(s.waiting) == s.o.HandshakesMax {
		s.waiting[0].Close()
		s.waiting = s.waiting[1:]
	}
	s.waiting = append(s.waiting, conn)
	return true
}

// leave ends what enter began. It reports whether there is room for another connection.
func (s *Server) leave(conn net.Conn, ok bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range s.waiting {
		if w == conn {
			s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
			break
		}
	}
	if !ok || s.closed || s.conns >= connsMax {
		return false
	}
	s.conns++
	return true
}

func (s *Server) serve(tcp Socket) {
	addr := tcp.RemoteAddr().String()
	rec := newRecordConn(tcp)
	t := tls.Server(rec, s.config)
	err := tcp.SetDeadline(time.Now().Add(s.o.HandshakeTimeout))
	if err == nil {
		err = t.HandshakeContext(context.Background())
	}
	if err == nil && t.ConnectionState().NegotiatedProtocol == alpnJoin {
		s.join(t, addr)
		return
	}
	if err == nil {
		err = rec.enter(&s.id, t)
	}
	if err != nil || t.ConnectionState().NegotiatedProtocol != alpnStream {
		if err != nil {
			lastWords(tcp)
		}
		if !s.leave(tcp, err == nil) {
			_ = rec.Close() // tells the gate; the socket is given up either way
			s.rejected(addr, explainServer(err, addr))
			return
		}
		_ = tcp.SetDeadline(time.Time{})
		rec.passThrough()
		s.web.put(t, func() { s.gone() })
		return
	}
	s.stream(rec, t, addr)
}

// lastWords lets the peer read the alert that says why: closing while something of its is unread could destroy it.
func lastWords(tcp Socket) {
	if tcp.CloseWrite() != nil || tcp.SetReadDeadline(time.Now().Add(lastWordsWait)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, tcp, lastWordsBytes)
}

func (s *Server) gone() {
	s.mu.Lock()
	s.conns--
	s.mu.Unlock()
}

func explainServer(err error, addr string) error {
	if err == nil {
		return fmt.Errorf("peer at %s: there are %d connections already", addr, connsMax)
	}
	return explain(err, addr, "")
}

// stream reads the hello and gives the connection to the handler.
func (s *Server) stream(rec *recordConn, t *tls.Conn, addr string) {
	_, node, err := names(t.ConnectionState().PeerCertificates[0])
	c := newConn(rec, t, node, s.o)
	c.self = s.id
	var hello wire.Hello
	if err == nil {
		hello, err = c.hearHello(addr)
	}
	if !s.leave(rec.Socket, err == nil) {
		if err == nil {
			err = explainServer(nil, addr)
		}
		c.fail(err)
		s.rejected(addr, err)
		return
	}
	defer s.gone()
	s.mu.Lock()
	s.streams[c] = struct{}{}
	closed := s.closed
	s.mu.Unlock()
	switch {
	case closed:
	case s.h.Stream == nil:
		_ = c.Refuse(wire.RuleHello, "this port takes no streams")
	default:
		tune(c.tcp, s.o)
		s.h.Stream(c, hello)
	}
	s.mu.Lock()
	delete(s.streams, c)
	s.mu.Unlock()
	c.Close(errDone)
}

// hearHello reads the hello and refuses what is not of this cluster and protocol.
func (c *Conn) hearHello(addr string) (wire.Hello, error) {
	var hello wire.Hello
	h, body, err := hearFrame(c.tls)
	switch {
	case err == nil && h.Type != wire.TypeHello:
		err = &wire.Error{Rule: wire.RuleOrder, Type: h.Type, Detail: "a stream begins with a hello"}
	case err == nil:
		err = wire.Unmarshal(h.Type, body, &hello)
	}
	var frame *wire.Error
	if errors.As(err, &frame) {
		_ = c.Refuse(frame.Rule, frame.Error()) // as far as it listens
		return hello, fmt.Errorf("node %s at %s: hello: %w", c.peer, addr, err)
	}
	if err != nil {
		return hello, explain(err, addr, "")
	}
	if rule, message := c.judge(hello); rule != "" {
		_ = c.Refuse(rule, message)
		return hello, &AuthError{Rule: rule, Address: addr, Message: message, Next: nextOf[rule]}
	}
	c.incarnation, c.asked = hello.Incarnation, hello.Encryption
	return hello, nil
}

// judge returns the rule that a hello breaks, and why.
func (c *Conn) judge(hello wire.Hello) (rule, message string) {
	if err := wire.CheckProtocol(hello.Protocol); err != nil {
		return wire.RuleProtocol, err.Error()
	}
	switch {
	case hello.Cluster != c.self.Cluster:
		return RuleCluster, fmt.Sprintf("the hello is of cluster %q, this server of %q", hello.Cluster, c.self.Cluster)
	case hello.Node != c.peer:
		return RuleNode, fmt.Sprintf("the hello says node %q, its certificate %q", hello.Node, c.peer)
	case hello.Node == c.self.Node:
		return RuleSelf, fmt.Sprintf("node %q is this server itself", hello.Node)
	case hello.Volume == "":
		return wire.RuleHello, "the hello names no volume"
	case hello.Encryption != wire.EncryptionOn && hello.Encryption != wire.EncryptionOff:
		return wire.RuleHello, fmt.Sprintf("encryption %q is neither on nor off", hello.Encryption)
	}
	return "", ""
}

func (s *Server) rejected(addr string, err error) {
	if s.h.Rejected != nil {
		s.h.Rejected(addr, err)
	}
}
