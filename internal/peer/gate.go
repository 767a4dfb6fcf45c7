package peer

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"sync"
	"time"
)

// KeyID is the identity of a certificate: SHA-256 of its public key, in hexadecimal. A renewed certificate keeps it.
func KeyID(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Standing is what a cluster says of a node that shows a key.
type Standing int

// Standings.
const (
	Stranger Standing = iota // no member of that name
	Named                    // a member, of which any certificate of the CA is taken, within its time
	Known                    // this very key was admitted: the certificate's time is of no account
	OtherKey                 // a member, but not with this key
	Removed
)

// Gate decides who is let in, besides what the CA has signed, and ends connections of those who no longer are. The CA's
// signature alone is not enough, because every member has the CA's key: one that was removed could sign for itself.
type Gate struct {
	judge func(node, key string) Standing

	mu   sync.Mutex
	live map[*pass]struct{}
}

// pass is one connection whose other end was let in.
type pass struct {
	gate      *Gate
	node, key string
	end       func(error) // ends the connection, without waiting
}

// NewGate makes a gate. judge may be called at any time, from any goroutine, and does not block.
func NewGate(judge func(node, key string) Standing) *Gate {
	return &Gate{judge: judge, live: map[*pass]struct{}{}}
}

func (g *Gate) standing(node string, cert *x509.Certificate) Standing {
	if g == nil {
		return Named
	}
	return g.judge(node, KeyID(cert))
}

func (s Standing) refusal(node string) error {
	switch s {
	case Named, Known:
		return nil
	case Removed:
		return &AuthError{Rule: RuleRemoved, Message: "node " + node + " was removed from the cluster"}
	case OtherKey:
		return &AuthError{Rule: RuleKey, Message: "node " + node + " was admitted with another key"}
	}
	return &AuthError{Rule: RuleStranger, Message: "node " + node + " is not a member of the cluster"}
}

// enter notes a connection that end ends. Its other end is judged once more, so that nobody slips in who was removed
// between handshake and here. leave has to be called when the connection is over.
func (g *Gate) enter(node string, cert *x509.Certificate, end func(error)) (leave func(), err error) {
	if g == nil {
		return func() {}, nil
	}
	p := &pass{g, node, KeyID(cert), end}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.judge(node, p.key).refusal(node); err != nil {
		return nil, err
	}
	g.live[p] = struct{}{}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.live, p)
	}, nil
}

// Recheck ends the connections, of both directions, whose other ends would not be let in any more.
func (g *Gate) Recheck() {
	g.mu.Lock()
	var out []*pass
	var why []error
	for p := range g.live {
		if err := g.judge(p.node, p.key).refusal(p.node); err != nil {
			out, why = append(out, p), append(why, err)
		}
	}
	g.mu.Unlock()
	for i, p := range out {
		p.end(why[i])
	}
}

// signedBy reports whether one of the cluster's CAs has signed the certificate, whatever the time.
func (id *Identity) signedBy(cert *x509.Certificate) error {
	err := error(x509.UnknownAuthorityError{Cert: cert})
	for _, ca := range id.roots {
		if found := cert.CheckSignatureFrom(ca); found == nil {
			return nil
		}
	}
	return err
}

// chain returns an error for a certificate that the CA has not signed. untimely says besides why one that it has signed is
// out of its time, or the CA's is, by this server's clock.
func (id *Identity) chain(cert *x509.Certificate) (untimely, err error) {
	_, err = cert.Verify(x509.VerifyOptions{Roots: id.CA, CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return err, id.signedBy(cert)
	}
	return nil, err
}
