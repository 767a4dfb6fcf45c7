package peer

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"keelson/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a CA made once for all tests; identities a and b are of it.
var cluster = sync.OnceValues(func() (*CA, error) { return NewCA() })

func identity(t testing.TB, node string) Identity {
	t.Helper()
	ca, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	id, err := ca.Identity(node)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// someHello is one that a server takes.
func someHello() wire.Hello { return wire.Hello{Volume: "v1", Name: "data", Mode: "sync"} }

// pair is two ends of a stream: a dialed, b accepted. Both are closed at the test's end.
func pair(t testing.TB, encryption string, o Options) (a, b *Conn) {
	t.Helper()
	o.Encryption = encryption
	ended := make(chan struct{})
	came := make(chan *Conn, 1)
	s := listen(t, "b", Handlers{Stream: func(c *Conn, _ wire.Hello) {
		if err := c.Accept(wire.HelloReply{Pages: 7}); err != nil {
			t.Error(err)
		}
		came <- c
		<-ended
	}}, o)
	a, reply, err := Dial(within(t, 10*time.Second), s.Addr().String(), "b", identity(t, "a"), someHello(), o)
	if err != nil {
		t.Fatal(err)
	}
	if reply.Pages != 7 || reply.Node != "b" {
		t.Fatalf("reply %+v", reply)
	}
	b = <-came
	t.Cleanup(func() {
		close(ended)
		a.Close(nil)
		s.Close()
	})
	return a, b
}

func listen(t testing.TB, node string, h Handlers, o Options) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0", identity(t, node), h, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// both runs a test plain and encrypted.
func both(t *testing.T, test func(t *testing.T, encryption string)) {
	for _, encryption := range []string{wire.EncryptionOff, wire.EncryptionOn} {
		t.Run("encryption="+encryption, func(t *testing.T) { test(t, encryption) })
	}
}
