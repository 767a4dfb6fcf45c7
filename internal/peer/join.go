package peer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Joining is the one thing that somebody without a certificate can do at the port: with the ALPN name keelson-join/1 the
// server asks for no certificate, reads one request, gives one answer and hangs up. What is asked for is the Handler's.

// Limits of joining.
const (
	JoinBytesMax   = 16 << 10 // of a request
	answerBytesMax = 4 << 20  // of an answer
	joinsMax       = 4        // at once
	joinBurst      = 8        // that may come together
	joinEvery      = time.Second
)

// Pin is how somebody who joins knows whom to trust: by what its invitation says.
type Pin struct {
	CA  [sha256.Size]byte // of the CA's certificate
	Key [sha256.Size]byte // of the public key of the server that invited
}

// Fingerprint is what a Pin has of a CA.
func (ca *CA) Fingerprint() [sha256.Size]byte { return sha256.Sum256(ca.cert.Raw) }

// joinTLS chooses the configuration by what a client asks for.
func joinTLS(id Identity) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !slices.Equal(hello.SupportedProtos, []string{alpnJoin}) {
			return nil, nil // the one for members
		}
		shown := *id.certificate()
		shown.Certificate = [][]byte{shown.Certificate[0]}
		for _, root := range id.roots {
			shown.Certificate = append(shown.Certificate, root.Raw)
		}
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{shown}, ClientAuth: tls.NoClientCert,
			NextProtos: []string{alpnJoin}, SessionTicketsDisabled: true,
		}, nil
	}
}

// joinLimit lets in joinsMax at once, joinBurst together, and one more each joinEvery.
type joinLimit struct {
	now func() time.Time

	mu     sync.Mutex
	inside int
	tokens float64
	last   time.Time
}

func newJoinLimit() *joinLimit { return &joinLimit{now: time.Now, tokens: joinBurst} }

func (l *joinLimit) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if !l.last.IsZero() && now.After(l.last) {
		l.tokens = min(joinBurst, l.tokens+float64(now.Sub(l.last))/float64(joinEvery))
	}
	l.last = now
	if l.inside >= joinsMax || l.tokens < 1 {
		return false
	}
	l.inside++
	l.tokens--
	return true
}

func (l *joinLimit) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inside--
}

// join serves a connection without a certificate. It stays among the handshakes in flight, so that strangers have no
// room of their own, and its deadline is that of a handshake.
func (s *Server) join(t *tls.Conn, addr string) {
	defer func() {
		s.leave(t.NetConn().(*recordConn).Socket, false)
		_ = t.Close() // the answer was given, or nobody waits for it
	}()
	if !s.joins.enter() {
		s.rejected(addr, &AuthError{Rule: RuleJoin, Address: addr, Message: "too many ask to join", Next: "try again in a few seconds"})
		return
	}
	defer s.joins.leave()
	request, err := readLine(t, JoinBytesMax)
	if err != nil {
		s.rejected(addr, fmt.Errorf("%s asks to join: %w", addr, err))
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.o.HandshakeTimeout)
	defer cancel()
	answer := append(s.h.Join(ctx, addr, request), '\n')
	if t.SetDeadline(time.Now().Add(s.o.HandshakeTimeout)) == nil {
		_, _ = t.Write(answer) // who is gone can ask again
	}
}

// readLine reads to the first line end, which is not part of the result, and no further than bytesMax.
func readLine(r io.Reader, bytesMax int64) ([]byte, error) {
	var line []byte
	part := make([]byte, 4<<10)
	for {
		n, err := r.Read(part)
		line = append(line, part[:n]...)
		if end := bytes.IndexByte(line, '\n'); end >= 0 && int64(end) <= bytesMax {
			return line[:end], nil
		}
		if int64(len(line)) > bytesMax {
			return nil, fmt.Errorf("a line of more than %d bytes", bytesMax)
		}
		if err != nil {
			return nil, fmt.Errorf("it ended before its line: %w", err)
		}
	}
}

// Join asks the server at that address to be admitted and returns its answer. The request has no line end in it. The
// server has to be the one of the pin: signed by that CA, whatever the time, and with that key.
func Join(ctx context.Context, addr string, pin Pin, request []byte, o Options) ([]byte, error) {
	o = o.withDefaults()
	conn, err := o.Network.Dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("the server that invited, at %s: %w", addr, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	t := tls.Client(conn, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpnJoin}, ServerName: "join" + dnsSuffix, InsecureSkipVerify: true, // pin.check does it
		VerifyConnection: func(s tls.ConnectionState) error { return pin.check(s.PeerCertificates) },
	})
	err = t.HandshakeContext(ctx)
	if err == nil && t.ConnectionState().NegotiatedProtocol != alpnJoin {
		err = &AuthError{Rule: RuleJoin, Message: "it admits nobody"}
	}
	if err == nil {
		_, err = t.Write(append(request, '\n'))
	}
	var answer []byte
	if err == nil {
		answer, err = readLine(t, answerBytesMax)
	}
	if err == nil {
		return answer, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("the server that invited, at %s: %w", addr, context.Cause(ctx))
	}
	return nil, explain(err, addr, "")
}

// check is nil if the chain is of the server that the pin names.
func (p Pin) check(chain []*x509.Certificate) error {
	var ca *x509.Certificate
	for _, c := range chain {
		if sha256.Sum256(c.Raw) == p.CA {
			ca = c
		}
	}
	switch {
	case ca == nil:
		return &AuthError{Rule: RuleJoin, Message: "it is not of the cluster that the token names"}
	case chain[0].CheckSignatureFrom(ca) != nil:
		return &AuthError{Rule: RuleJoin, Message: "its certificate is not of the cluster that the token names"}
	case KeyID(chain[0]) != hex.EncodeToString(p.Key[:]):
		return &AuthError{Rule: RuleJoin, Message: "it is not the server that made the token"}
	}
	return nil
}
