package peer

import (
	"crypto/ecdsa"
	"crypto/tls"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"keelson/internal/wire"
)

// members is who may enter, as a test says.
type members struct {
	mu sync.Mutex
	of map[string]Standing
}

func (m *members) set(node string, s Standing) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of[node] = s
}

func (m *members) judge(node, _ string) Standing {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.of[node]
}

func gated(t *testing.T, node string, of map[string]Standing) (Identity, *members) {
	t.Helper()
	m := &members{of: of}
	id := identity(t, node)
	id.Gate = NewGate(m.judge)
	return id, m
}

// aged is an identity of the test's cluster whose certificate has other times.
func aged(t *testing.T, node string, from, to time.Time) Identity {
	t.Helper()
	ca, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	key, keyPEM, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := ca.signAt(node, &key.PublicKey, from, to)
	if err != nil {
		t.Fatal(err)
	}
	id, err := NewIdentity(ca.PEM(), certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// accepting is a port that takes every stream and answers every request.
func accepting(t *testing.T, id Identity) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0", id, Handlers{
		Stream: func(c *Conn, _ wire.Hello) {
			_ = c.Accept(wire.HelloReply{})
			<-c.Done()
		},
		Control: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, NodeOf(r)) }),
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestStandings: who is let in, at the port and by the one who dials, is the gate's decision; the certificate's time
// counts only for those whose key is not known.
func TestStandings(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		standing Standing
		from, to time.Time
		rule     string // "": let in
	}{
		"a member by name":                       {Named, now.Add(-time.Hour), now.Add(time.Hour), ""},
		"a member by key":                        {Known, now.Add(-time.Hour), now.Add(time.Hour), ""},
		"by key, expired":                        {Known, now.Add(-2 * time.Hour), now.Add(-time.Hour), ""},
		"by key, its clock was behind":           {Known, time.Unix(0, 0), time.Unix(1, 0), ""},
		"by key, its clock was ahead":            {Known, now.AddDate(50, 0, 0), now.AddDate(51, 0, 0), ""},
		"by name, expired":                       {Named, now.Add(-2 * time.Hour), now.Add(-time.Hour), RuleCertificate},
		"by name, not yet valid":                 {Named, now.Add(time.Hour), now.Add(2 * time.Hour), RuleCertificate},
		"removed":                                {Removed, now.Add(-time.Hour), now.Add(time.Hour), RuleRemoved},
		"a member, another key":                  {OtherKey, now.Add(-time.Hour), now.Add(time.Hour), RuleKey},
		"signed by the CA, but nobody's invited": {Stranger, now.Add(-time.Hour), now.Add(time.Hour), RuleStranger},
	} {
		t.Run(name, func(t *testing.T) {
			server, _ := gated(t, "b", map[string]Standing{"a": test.standing})
			s := accepting(t, server)
			a := aged(t, "a", test.from, test.to)
			c, _, err := Dial(within(t, 10*time.Second), s.Addr().String(), "b", a, someHello(), Options{})
			if (err == nil) != (test.rule == "") {
				t.Errorf("stream to a server that knows: %v", err)
			}
			if err == nil {
				_ = c.Close(nil)
			}
			// And the other way round: who dials judges too.
			s = accepting(t, a)
			client, _ := gated(t, "b", map[string]Standing{"a": test.standing})
			c, _, err = Dial(within(t, 10*time.Second), s.Addr().String(), "a", client, someHello(), Options{})
			if test.rule != "" {
				wantError(t, err, test.rule, "")
			} else if err != nil {
				t.Error(err)
			} else {
				_ = c.Close(nil)
			}
		})
	}
}

// TestRemovalEndsLiveConnections: streams and control connections of both directions end at once, at the side that knows.
func TestRemovalEndsLiveConnections(t *testing.T) {
	for _, side := range []string{"the port", "who dialed"} {
		t.Run(side, func(t *testing.T) {
			server, atPort := gated(t, "b", map[string]Standing{"a": Known, "c": Known})
			dialer, atDialer := gated(t, "a", map[string]Standing{"b": Known})
			s := accepting(t, server)
			other, _, err := Dial(within(t, 10*time.Second), s.Addr().String(), "b", identity(t, "c"), someHello(), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close(nil)
			stream, _, err := Dial(within(t, 10*time.Second), s.Addr().String(), "b", dialer, someHello(), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close(nil)
			client := HTTPClient(dialer, "b", s.Addr().String(), Options{})
			defer client.CloseIdleConnections()
			if got := post(t, client, "x"); got != "a" {
				t.Fatalf("before: %q", got)
			}
			if side == "the port" {
				atPort.set("a", Removed)
				server.Gate.Recheck()
			} else {
				atDialer.set("b", Removed)
				dialer.Gate.Recheck()
			}
			select {
			case <-stream.Done():
			case <-within(t, 10*time.Second).Done():
				t.Fatal("the stream lives")
			}
			if answer, err := client.Get("https://b/"); err == nil {
				answer.Body.Close()
				t.Error("a control request was answered")
			}
			if _, _, err := Dial(within(t, 10*time.Second), s.Addr().String(), "b", dialer, someHello(), Options{}); err == nil {
				t.Error("a new stream was taken")
			}
			if err := other.Err(); err != nil {
				t.Errorf("the stream of another server ended too: %v", err)
			}
		})
	}
}

// TestGateForgetsWhatIsOver: connections that ended are not kept.
func TestGateForgetsWhatIsOver(t *testing.T) {
	server, _ := gated(t, "b", map[string]Standing{"a": Known})
	s := accepting(t, server)
	dialer, _ := gated(t, "a", map[string]Standing{"b": Known})
	for range 3 {
		c, _, err := Dial(within(t, 10*time.Second), s.Addr().String(), "b", dialer, someHello(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close(nil)
		client := HTTPClient(dialer, "b", s.Addr().String(), Options{})
		post(t, client, "x")
		client.CloseIdleConnections()
	}
	live := func(g *Gate) int {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.live)
	}
	for end := time.Now().Add(10 * time.Second); live(server.Gate)+live(dialer.Gate) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d and %d connections are kept", live(server.Gate), live(dialer.Gate))
		}
	}
}

// TestRenewedCertificate: it is shown from then on by whoever has a copy of the identity; one of another key, or of
// another CA, is not taken.
func TestRenewedCertificate(t *testing.T) {
	ca, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	id := identity(t, "b")
	s := accepting(t, id)
	end := func() time.Time {
		t.Helper()
		client := identity(t, "a")
		conn, err := tls.Dial("tcp", s.Addr().String(), clientTLS(client, "b", alpnControl))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].NotAfter
	}
	before := end()
	renewed, err := ca.Sign("b", &id.Cert.PrivateKey.(*ecdsa.PrivateKey).PublicKey, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Renew(renewed); err != nil {
		t.Fatal(err)
	}
	if after := end(); !after.Before(before) || after.After(time.Now().Add(time.Hour)) {
		t.Errorf("the certificate ends at %v, before at %v", after, before)
	}
	otherKey, _, err := ca.Issue("b")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	otherCA, err := foreign.Sign("b", &id.Cert.PrivateKey.(*ecdsa.PrivateKey).PublicKey, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{otherKey, otherCA, nil, []byte("-----BEGIN X-----\nAAAA\n-----END X-----\n")} {
		if err := id.Renew(bad); err == nil {
			t.Errorf("%.60q was taken", bad)
		}
	}
}
