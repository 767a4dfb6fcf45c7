package peer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson/internal/wire"
)

func pinOf(t testing.TB, id Identity) Pin {
	t.Helper()
	p := Pin{CA: sha256.Sum256(id.roots[0].Raw)}
	if _, err := hex.Decode(p.Key[:], []byte(KeyID(id.Leaf()))); err != nil {
		t.Fatal(err)
	}
	return p
}

// admitting is a port that answers requests to join with what they were, and fails the test if more is reached.
func admitting(t testing.TB, id Identity) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0", id, Handlers{
		Join: func(_ context.Context, _ string, request []byte) []byte {
			return append([]byte("you said "), request...)
		},
		Control: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("somebody without a certificate reached control") }),
		Stream:  func(*Conn, wire.Hello) { t.Error("somebody without a certificate reached the streams") },
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestJoin(t *testing.T) {
	id := identity(t, "b")
	s := admitting(t, id)
	got, err := Join(within(t, 10*time.Second), s.Addr().String(), pinOf(t, id), []byte(`{"x":1}`), Options{})
	if err != nil || string(got) != `you said {"x":1}` {
		t.Errorf("%q, %v", got, err)
	}
	closed := listen(t, "b", Handlers{}, Options{})
	if _, err := Join(within(t, 10*time.Second), closed.Addr().String(), pinOf(t, id), []byte("x"), Options{}); err == nil {
		t.Error("a server that admits nobody answered")
	}
}

// TestJoinTrustsOnlyThePin: whoever is not of the token's CA, or is not the server that made it, never sees the request.
func TestJoinTrustsOnlyThePin(t *testing.T) {
	id := identity(t, "b")
	foreign, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	for name, server := range map[string]Identity{"a foreign CA": mustIdentity(t, foreign, "b"), "another member": identity(t, "b")} {
		s, err := Listen("127.0.0.1:0", server, Handlers{Join: func(context.Context, string, []byte) []byte {
			t.Errorf("%s saw the request", name)
			return nil
		}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = Join(within(t, 10*time.Second), s.Addr().String(), pinOf(t, id), []byte("secret"), Options{})
		wantError(t, err, RuleJoin, "token")
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestStrangerReachesOnlyJoin: whatever somebody without a certificate asks for by ALPN, nothing but joining is reached.
func TestStrangerReachesOnlyJoin(t *testing.T) {
	s := admitting(t, identity(t, "b"))
	for _, protos := range [][]string{nil, {alpnControl}, {alpnStream}, {alpnJoin, alpnControl}, {alpnControl, alpnJoin}, {"h2"}, {alpnJoin}} {
		conn, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: protos})
		if err != nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = conn.Write([]byte("POST /peer/v1/state HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n"))
		answer, _ := io.ReadAll(conn) // the alert, or an answer to the one line of a join
		if bytes.HasPrefix(answer, []byte("HTTP/")) {
			t.Errorf("%q: %.80q", protos, answer)
		}
		_ = conn.Close()
	}
}

// TestJoinIsBounded: long requests, slow ones, and many. The port goes on serving members meanwhile.
func TestJoinIsBounded(t *testing.T) {
	id := identity(t, "b")
	s := admitting(t, id)
	dial := func() *tls.Conn {
		t.Helper()
		conn, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpnJoin}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	long := dial()
	_, _ = long.Write(bytes.Repeat([]byte("x"), JoinBytesMax+8<<10))
	_ = long.SetReadDeadline(time.Now().Add(10 * time.Second))
	if answer, _ := io.ReadAll(long); len(answer) > 0 {
		t.Errorf("a request that is too long was answered: %.80q", answer)
	}
	refused := false
	for range joinBurst + joinsMax {
		_, err := Join(within(t, 10*time.Second), s.Addr().String(), pinOf(t, id), []byte("x"), Options{})
		refused = refused || err != nil
	}
	if !refused {
		t.Errorf("%d requests to join at once were all answered", joinBurst+joinsMax)
	}
}

func TestJoinLimit(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newJoinLimit()
	l.now = func() time.Time { return now }
	for i := range joinBurst {
		if !l.enter() {
			t.Fatalf("the %d. was refused", i)
		}
		l.leave()
	}
	if l.enter() {
		t.Error("more than a burst")
	}
	now = now.Add(-time.Hour) // a clock that was set back gives nothing and takes nothing
	if l.enter() {
		t.Error("the past gives tokens")
	}
	now = now.Add(2 * joinEvery)
	if n := entered(l, 3); n != 2 {
		t.Errorf("two were due, %d were let in", n)
	}
	now = now.Add(joinBurst * joinEvery)
	if n := entered(l, 3); n != joinsMax-2 {
		t.Errorf("%d at once, not %d", n+2, joinsMax)
	}
}

// entered is how many of n are let in.
func entered(l *joinLimit, n int) (in int) {
	for range n {
		if l.enter() {
			in++
		}
	}
	return in
}

// TestTenThousandIdleConnections: strangers that connect and say nothing are bounded, cost no descriptors beyond the
// bound, and keep no member out.
func TestTenThousandIdleConnections(t *testing.T) {
	const idle = 10000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < idle+500 {
		limit.Cur = min(limit.Max, idle+500)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}
	if limit.Cur < idle+500 {
		t.Fatalf("this machine allows %d descriptors: the test needs %d", limit.Cur, idle+500)
	}
	s := accepting(t, identity(t, "b"))
	conns := make([]net.Conn, 0, idle)
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	most := 0
	for i := range idle {
		// 127.0.0.0/8 as sources: one address has too few ports on a busy machine.
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+i/2000), 1)}, Timeout: 30 * time.Second}
		c, err := d.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		conns = append(conns, c)
		s.mu.Lock()
		most = max(most, len(s.waiting))
		s.mu.Unlock()
		if i%2500 == 2499 {
			stream, _, err := Dial(within(t, 30*time.Second), s.Addr().String(), "b", identity(t, "a"), someHello(), Options{})
			if err != nil {
				t.Fatalf("a member among %d strangers: %v", i+1, err)
			}
			_ = stream.Close(nil)
		}
	}
	if max := s.o.HandshakesMax; most > max {
		t.Errorf("%d handshakes were in flight at once, more than %d", most, max)
	}
}

func FuzzJoinAnswer(f *testing.F) {
	f.Add([]byte("{}\n"))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		line, err := readLine(bytes.NewReader(data), 64)
		if err == nil && (len(line) > 64 || bytes.IndexByte(line, '\n') >= 0 || !bytes.HasPrefix(data, append(line, '\n'))) {
			t.Errorf("%q was read as %q", data, line)
		}
	})
}

func FuzzCertificateRequest(f *testing.F) {
	_, keyPEM, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	der, err := MakeRequest(keyPEM)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add([]byte(strings.Repeat("0", 100)))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, id, err := ReadRequest(data)
		if err == nil && (key == nil || len(id) != 64) {
			t.Error("a request without a key was taken")
		}
		var auth *AuthError
		if errors.As(err, &auth) {
			t.Error(err)
		}
	})
}
