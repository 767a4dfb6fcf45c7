package peer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

// ALPN names: what a connection to the one port is for.
const (
	alpnStream  = "keelson-stream/1"
	alpnControl = "http/1.1"
	alpnJoin    = "keelson-join/1"
)

// Rules by which a peer is not let in, or not talked to.
const (
	RuleCertificate = "peer-certificate" // not of this cluster's CA, or none
	RuleCluster     = "peer-cluster"     // another cluster
	RuleNode        = "peer-node"        // another node than the one meant, or than its certificate says
	RuleSelf        = "peer-self"        // this very node
	RuleRemoved     = "peer-removed"     // was removed from the cluster
	RuleKey         = "peer-key"         // a member, but not with the key that was admitted
	RuleStranger    = "peer-stranger"    // signed by the CA, but no member
	RuleJoin        = "peer-join"        // the token of an invitation does not fit what answers, or nobody takes one
	RuleHandshake   = "peer-handshake"   // not a peer, or one that says nothing
	RuleQueue       = "peer-queue"       // more is queued than Options.QueueBytesMax
)

// AuthError is a peer that could not be proved to be the one meant.
type AuthError struct {
	Rule    string
	Address string // of the peer
	Message string
	Next    string // what to do
}

// Error says who, why and what to do next.
func (e *AuthError) Error() string {
	return fmt.Sprintf("peer at %s: %s: %s (%s)", e.Address, e.Message, e.Next, e.Rule)
}

// serverTLS is the configuration of the port. The verdict on the client's certificate is verify's alone: TLS itself would
// refuse members whose certificates are out of their time.
func serverTLS(id Identity) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.certificate(), nil },
		ClientAuth:     tls.RequireAnyClientCert,
		NextProtos:     []string{alpnStream, alpnControl},
		// Tickets would be records after the handshake, which `encryption = off` cannot have, and are of no use to
		// connections that live for days.
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		VerifyConnection:            func(s tls.ConnectionState) error { return verify(s, id, "") },
	}
}

// clientTLS is the configuration for a connection to a node.
func clientTLS(id Identity, wantNode, alpn string) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		GetClientCertificate:        func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.certificate(), nil },
		InsecureSkipVerify:          true, // verify does it: see serverTLS
		ServerName:                  wantNode + dnsSuffix,
		NextProtos:                  []string{alpn},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		VerifyConnection:            func(s tls.ConnectionState) error { return verify(s, id, wantNode) },
	}
}

// ClientsTLS is the configuration of a port for the cluster's members, and for clients that are no servers: those whose key
// admitted knows. The CA's signature alone lets nobody in, see Gate. What is shown to them is that of shown: see CA.SignService.
func (id Identity) ClientsTLS(admitted func(key string) bool, shown func(*tls.ClientHelloInfo) *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return shown(hello), nil },
		ClientAuth:     tls.RequireAndVerifyClientCert,
		ClientCAs:      id.CA,
		VerifyConnection: func(s tls.ConnectionState) error {
			return id.JudgeClient(s.PeerCertificates[0], admitted)
		},
	}
}

// JudgeClient says why a certificate of the CA does not let in where clients are; nil if it does.
func (id Identity) JudgeClient(cert *x509.Certificate, admitted func(key string) bool) error {
	if _, node, err := names(cert); err == nil {
		return id.Gate.standing(node, cert).refusal(node)
	}
	if !admitted(KeyID(cert)) {
		return &AuthError{Rule: RuleStranger, Message: fmt.Sprintf("client %.70q is not admitted, or not with this key", cert.Subject.CommonName)}
	}
	return nil
}

// verify decides who is at the other end: it is in the cluster by its CA, it is who it says, and the Gate lets it in.
func verify(s tls.ConnectionState, id Identity, wantNode string) error {
	if len(s.PeerCertificates) == 0 {
		return &AuthError{Rule: RuleCertificate, Message: "it shows no certificate"}
	}
	cert := s.PeerCertificates[0]
	untimely, err := id.chain(cert)
	if err != nil {
		return err
	}
	cluster, node, err := names(cert)
	switch {
	case err != nil:
		return &AuthError{Rule: RuleCertificate, Message: err.Error()}
	case cluster != id.Cluster:
		return &AuthError{Rule: RuleCluster, Message: fmt.Sprintf("it is of cluster %s, this server of %s", cluster, id.Cluster)}
	case wantNode != "" && node != wantNode:
		return &AuthError{Rule: RuleNode, Message: fmt.Sprintf("it is node %q, not %q", node, wantNode)}
	}
	standing := id.Gate.standing(node, cert)
	if err := standing.refusal(node); err != nil {
		return err
	}
	if standing != Known {
		return untimely
	}
	return nil
}

// explain makes the error of a handshake one that says what to do: *AuthError unless the connection itself failed.
func explain(err error, addr, wantNode string) error {
	var auth *AuthError
	var host x509.HostnameError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var header tls.RecordHeaderError
	var alert tls.AlertError
	var remote *net.OpError
	switch {
	case errors.As(err, &auth):
		auth = &AuthError{Rule: auth.Rule, Message: auth.Message}
	case errors.As(err, &host):
		message := fmt.Sprintf("it is not node %q", wantNode)
		if _, node, err := names(host.Certificate); err == nil {
			message = fmt.Sprintf("it is node %q, not %q", node, wantNode)
		}
		auth = &AuthError{Rule: RuleNode, Message: message}
	case errors.As(err, &unknown):
		auth = &AuthError{Rule: RuleCertificate, Message: "its certificate is not signed by this cluster's CA"}
	case errors.As(err, &invalid):
		auth = &AuthError{Rule: RuleCertificate, Message: "its certificate is not valid: " + invalid.Error()}
	case strings.Contains(err.Error(), "client didn't provide a certificate"):
		auth = &AuthError{Rule: RuleCertificate, Message: "it shows no certificate of this cluster's CA"}
	case errors.As(err, &remote) && remote.Op == "remote error", errors.As(err, &alert):
		auth = &AuthError{Rule: RuleCertificate, Message: fmt.Sprintf("it does not take this server's certificate (%v)", err)}
	case errors.As(err, &header):
		auth = &AuthError{Rule: RuleHandshake, Message: "it does not speak TLS"}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &AuthError{Rule: RuleHandshake, Address: addr, Message: "it did not finish the handshake in time", Next: "look at the network, and that a keelson agent listens there"}
	case errors.Is(err, io.EOF):
		return &AuthError{Rule: RuleHandshake, Address: addr, Message: "it closed the connection in the handshake", Next: "look at the other server's log"}
	default:
		return fmt.Errorf("peer at %s: handshake: %w", addr, err)
	}
	auth.Address, auth.Next = addr, nextOf[auth.Rule]
	return auth
}

var nextOf = map[string]string{
	RuleCertificate: "both servers need certificates of one cluster: `keelson node join`",
	RuleCluster:     "both servers need certificates of one cluster: `keelson node join`",
	RuleNode:        "correct the node's address in the configuration",
	RuleRemoved:     "to have it back, invite it again: `keelson node invite`",
	RuleKey:         "if the server was set up anew, remove it and invite it again: `keelson node remove`, `keelson node invite`",
	RuleStranger:    "admit it with `keelson node invite` and `keelson node join`, or name it in [[peer]]",
	RuleHandshake:   "look what listens at that address",
	RuleJoin:        "ask for a new token (keelson node invite) and use it as it was printed",
}
