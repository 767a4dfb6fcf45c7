package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/wire"
)

// TestFramesRightBehindTheHello: without encryption the target's first frames may arrive together with its reply. None is lost.
func TestFramesRightBehindTheHello(t *testing.T) {
	both(t, func(t *testing.T, encryption string) {
		for range 20 {
			s := listen(t, "b", Handlers{Stream: func(c *Conn, _ wire.Hello) {
				if err := c.Accept(wire.HelloReply{}); err != nil {
					t.Error(err)
				}
				for i := range uint64(10) {
					c.Queue(wire.Header{Type: wire.TypeAck, Number: i}, nil, nil)
					c.TryFlush()
				}
				_, _, _ = c.Read()
			}}, Options{Encryption: encryption})
			a, reply, err := Dial(within(t, 10*time.Second), s.Addr().String(), "b", identity(t, "a"), someHello(), Options{Encryption: encryption})
			if err != nil {
				t.Fatal(err)
			}
			if reply.Encryption != encryption || a.Encrypted() != (encryption == wire.EncryptionOn) {
				t.Errorf("encryption %s, encrypted %v", reply.Encryption, a.Encrypted())
			}
			for i := range uint64(10) {
				if h, _, err := a.Read(); err != nil || h.Number != i {
					t.Fatalf("frame %d: %v, %v", i, h, err)
				}
			}
			a.Close(nil)
			s.Close()
		}
	})
}

// TestEncryptionIsOffOnlyIfBothSaySo.
func TestEncryptionIsOffOnlyIfBothSaySo(t *testing.T) {
	for _, test := range []struct{ dialer, target, want string }{
		{"off", "off", "off"}, {"off", "on", "on"}, {"on", "off", "on"}, {"on", "on", "on"}, {"", "off", "on"},
	} {
		s := listen(t, "b", Handlers{Stream: func(c *Conn, _ wire.Hello) {
			_ = c.Accept(wire.HelloReply{})
			for {
				if _, _, err := c.Read(); err != nil {
					return
				}
				c.Queue(wire.Header{Type: wire.TypeAck}, nil, nil)
				c.TryFlush()
			}
		}}, Options{Encryption: test.target})
		hello := someHello()
		hello.Encryption = test.dialer
		a, reply, err := Dial(within(t, 10*time.Second), s.Addr().String(), "b", identity(t, "a"), hello, Options{})
		if err != nil {
			t.Fatal(err)
		}
		a.Queue(wire.Header{Type: wire.TypeFlush}, nil, nil)
		a.TryFlush()
		if _, _, err := a.Read(); err != nil || reply.Encryption != test.want || a.Encrypted() != (test.want == "on") {
			t.Errorf("%+v: %s, %v", test, reply.Encryption, err)
		}
		a.Close(nil)
	}
}

func TestLongHelloAndWhatItSays(t *testing.T) {
	hello := someHello()
	for i := range 5000 {
		hello.History = append(hello.History, lineage.Generation{ID: lineage.GenID{byte(i), byte(i >> 8)}, Term: lineage.Term{N: uint64(i), Node: "a"}})
	}
	got := make(chan wire.Hello, 1)
	id := identity(t, "a")
	s := listen(t, "b", Handlers{Stream: func(c *Conn, h wire.Hello) {
		got <- h
		if c.Peer() != "a" || c.RemoteIncarnation() != id.Incarnation {
			t.Errorf("peer %q, incarnation %q", c.Peer(), c.RemoteIncarnation())
		}
		_ = c.Refuse("unknown-volume", "there is no volume v1 here")
	}}, Options{})
	_, _, err := Dial(within(t, 10*time.Second), s.Addr().String(), "b", id, hello, Options{})
	var no *RefusedError
	if !errors.As(err, &no) || no.Rule != "unknown-volume" || no.Peer != "b" {
		t.Errorf("got %v", err)
	}
	if h := <-got; len(h.History) != 5000 || h.Protocol != wire.Version || h.Node != "a" || h.Cluster != id.Cluster || h.Encryption != "on" {
		t.Errorf("hello %v %v %v %v %v", len(h.History), h.Protocol, h.Node, h.Cluster, h.Encryption)
	}
	hello.Name = strings.Repeat("x", wire.JSONMax)
	if _, _, err := Dial(within(t, 10*time.Second), s.Addr().String(), "b", id, hello, Options{}); err == nil || !strings.Contains(err.Error(), wire.RuleBodyLimit) {
		t.Errorf("too long: %v", err)
	}
}

// TestWhoIsNotLetIn: each with the words at the dialing side and at the port.
func TestWhoIsNotLetIn(t *testing.T) {
	ours, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	stranger := mustIdentity(t, foreign, "a")
	intruder := stranger // trusts us, but has a certificate of its own making
	intruder.CA, intruder.Cluster = identity(t, "a").CA, ours.Cluster
	other := mustIdentity(t, &CA{Cluster: "another", cert: ours.cert, key: ours.key}, "a")

	tests := []struct {
		name, want  string // the node dialed
		id          Identity
		rule        string
		here, there string
	}{
		{"another cluster's server", "b", stranger, RuleCertificate, "its certificate is not signed by this cluster's CA", "does not take this server's certificate"},
		{"a foreign certificate", "b", intruder, RuleCertificate, "does not take this server's certificate", "its certificate is not signed by this cluster's CA"},
		{"the same CA, another cluster", "b", other, RuleCluster, "this server of another", "does not take"},
		{"another node than meant", "c", identity(t, "a"), RuleNode, `it is node "b", not "c"`, "does not take"},
		{"itself", "b", identity(t, "b"), RuleSelf, "is this server itself", "is this server itself"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rejected := make(chan error, 8)
			s := listen(t, "b", Handlers{
				Stream:   func(*Conn, wire.Hello) { t.Error("it was let in") },
				Rejected: func(_ string, err error) { rejected <- err },
			}, Options{})
			_, _, err := Dial(within(t, 10*time.Second), s.Addr().String(), test.want, test.id, someHello(), Options{})
			wantError(t, err, test.rule, test.here)
			wantError(t, <-rejected, "", test.there)
		})
	}
}

func mustIdentity(t testing.TB, ca *CA, node string) Identity {
	t.Helper()
	id, err := ca.Identity(node)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func wantError(t *testing.T, err error, rule, text string) {
	t.Helper()
	var auth *AuthError
	var no *RefusedError
	got := ""
	if errors.As(err, &auth) {
		got = auth.Rule
	} else if errors.As(err, &no) {
		got = no.Rule
	}
	if err == nil || !strings.Contains(err.Error(), text) || rule != "" && got != rule {
		t.Errorf("got %v (rule %q), want rule %q and %q", err, got, rule, text)
	}
}

// TestHellosThatAreRefused: from somebody with a good certificate. The dialing side gets the rule and the message.
func TestHellosThatAreRefused(t *testing.T) {
	id := identity(t, "a")
	good := someHello()
	good.Protocol, good.Cluster, good.Node, good.Encryption = wire.Version, id.Cluster, "a", wire.EncryptionOn
	with := func(change func(*wire.Hello)) wire.Hello {
		h := good
		change(&h)
		return h
	}
	tests := []struct {
		name, rule, message string
		hello               any
		kind                wire.Type
	}{
		{"a newer protocol", wire.RuleProtocol, "this server is older: run the same release", with(func(h *wire.Hello) { h.Protocol = wire.Version + 1 }), wire.TypeHello},
		{"an older protocol", wire.RuleProtocol, "the peer is older: run the same release", with(func(h *wire.Hello) { h.Protocol = 0 }), wire.TypeHello},
		{"another cluster", RuleCluster, `the hello is of cluster "c2"`, with(func(h *wire.Hello) { h.Cluster = "c2" }), wire.TypeHello},
		{"another node than the certificate's", RuleNode, `the hello says node "c", its certificate "a"`, with(func(h *wire.Hello) { h.Node = "c" }), wire.TypeHello},
		{"no volume", wire.RuleHello, "names no volume", with(func(h *wire.Hello) { h.Volume = "" }), wire.TypeHello},
		{"no encryption", wire.RuleHello, `encryption "maybe" is neither on nor off`, with(func(h *wire.Hello) { h.Encryption = "maybe" }), wire.TypeHello},
		{"no JSON object", wire.RuleJSON, "cannot unmarshal", []string{"hello"}, wire.TypeHello},
		{"not a hello", wire.RuleOrder, "a stream begins with a hello", wire.Bye{}, wire.TypeBye},
		{"a reply", wire.RuleOrder, "a stream begins with a hello", wire.HelloReply{}, wire.TypeHelloReply},
	}
	s := listen(t, "b", Handlers{Stream: func(*Conn, wire.Hello) { t.Error("it was let in") }}, Options{})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := offered(t, s, id)
			if err := c.sayJSON(test.kind, test.hello); err != nil {
				t.Fatal(err)
			}
			h, body, err := hearFrame(c.tls)
			var no wire.Refusal
			if err != nil || h.Type != wire.TypeRefuse || wire.Unmarshal(h.Type, body, &no) != nil {
				t.Fatalf("answer %v, %v", h, err)
			}
			if no.Rule != test.rule || !strings.Contains(no.Message, test.message) {
				t.Errorf("refused by %s: %s", no.Rule, no.Message)
			}
		})
	}
}

// offered is a connection before its hello.
func offered(t *testing.T, s *Server, id Identity) *Conn {
	t.Helper()
	o := Options{}.withDefaults()
	rec, tc, err := dialTLS(within(t, 10*time.Second), s.Addr().String(), "b", alpnStream, id, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rec.Socket.Close() })
	return newConn(rec, tc, "b", o)
}

func TestGarbageInsteadOfAHello(t *testing.T) {
	s := listen(t, "b", Handlers{}, Options{})
	c := offered(t, s, identity(t, "a"))
	if _, err := c.tls.Write([]byte(strings.Repeat("SELECT 1;", 10))); err != nil {
		t.Fatal(err)
	}
	h, body, err := hearFrame(c.tls)
	if err != nil || h.Type != wire.TypeRefuse || !strings.Contains(string(body), wire.RuleHeaderCRC) {
		t.Errorf("answer %v %s, %v", h, body, err)
	}
}

// TestSilentStrangers: who connects and says nothing is cut in time, and so many of them do not keep a peer out.
func TestSilentStrangers(t *testing.T) {
	handshakesMax := Options{}.withDefaults().HandshakesMax
	rejected := make(chan error, 4*handshakesMax)
	s := listen(t, "b", Handlers{
		Stream:   func(c *Conn, _ wire.Hello) { _ = c.Refuse("no", "no") },
		Rejected: func(_ string, err error) { rejected <- err },
	}, Options{HandshakeTimeout: 300 * time.Millisecond})
	var strangers []net.Conn
	for range 2 * handshakesMax {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		strangers = append(strangers, conn)
	}
	_, _, err := Dial(within(t, 10*time.Second), s.Addr().String(), "b", identity(t, "a"), someHello(), Options{})
	wantError(t, err, "no", "b refuses: no")
	for _, conn := range strangers {
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a stranger was not cut")
		}
	}
	late := 0
	for range strangers {
		if err := <-rejected; strings.Contains(err.Error(), "did not finish the handshake in time") {
			late++
		}
	}
	if late < handshakesMax/2 {
		t.Errorf("%d were late", late)
	}
}

// TestNotAPeer: what else may listen at, or call, a peer's address.
func TestNotAPeer(t *testing.T) {
	rejected := make(chan error, 1)
	s := listen(t, "b", Handlers{Rejected: func(_ string, err error) { rejected <- err }}, Options{})
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\n\r\n")
	wantError(t, <-rejected, RuleHandshake, "it does not speak TLS")

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() // never accepts
	_, _, err = Dial(within(t, 10*time.Second), ln.Addr().String(), "b", identity(t, "a"), someHello(), Options{HandshakeTimeout: 50 * time.Millisecond})
	wantError(t, err, RuleHandshake, "did not finish the handshake in time")
	addr := ln.Addr().String()
	ln.Close()
	if _, _, err = Dial(within(t, 10*time.Second), addr, "b", identity(t, "a"), someHello(), Options{}); err == nil || !strings.Contains(err.Error(), "node b at "+addr) {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := Listen(s.Addr().String(), identity(t, "c"), Handlers{}, Options{}); err == nil || !strings.Contains(err.Error(), "choose another address") {
		t.Errorf("port in use: %v", err)
	}
}

// TestDialGivesUp: a target that takes long to answer is waited for as long as the context lives.
func TestDialGivesUp(t *testing.T) {
	s := listen(t, "b", Handlers{Stream: func(c *Conn, _ wire.Hello) { <-c.Done() }}, Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, _, err := Dial(ctx, s.Addr().String(), "b", identity(t, "a"), someHello(), Options{})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestServerCloseEndsStreams also where the handler never answered.
func TestServerCloseEndsStreams(t *testing.T) {
	came := make(chan *Conn, 2)
	s := listen(t, "b", Handlers{Stream: func(c *Conn, h wire.Hello) {
		if h.Name == "taken" {
			_ = c.Accept(wire.HelloReply{})
		}
		came <- c
		<-c.Done()
	}}, Options{})
	go func() {
		hello := someHello()
		_, _, _ = Dial(within(t, 10*time.Second), s.Addr().String(), "b", identity(t, "a"), hello, Options{})
	}()
	<-came
	hello := someHello()
	hello.Name = "taken"
	a, _, err := Dial(within(t, 10*time.Second), s.Addr().String(), "b", identity(t, "a"), hello, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close(nil)
	c := <-came
	s.Close()
	if err := c.Err(); err == nil || err.Error() != "stream to a: closed here: this agent stops" {
		t.Error(err)
	}
	if body := block.NewBuffer(1); body != nil {
		body.Release()
	}
	if _, _, err := a.Read(); err == nil {
		t.Error("the stream lives")
	}
}
