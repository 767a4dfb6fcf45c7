package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"keelson/internal/wire"
)

// dialTLS connects and does the TLS handshake, within HandshakeTimeout. Errors are *AuthError where the peer is to blame.
func dialTLS(ctx context.Context, addr, wantNode, alpn string, id Identity, o Options) (*recordConn, *tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, o.HandshakeTimeout)
	defer cancel()
	conn, err := o.Network.Dial(ctx, addr)
	if err != nil {
		return nil, nil, fmt.Errorf("node %s at %s: %w", wantNode, addr, err)
	}
	rec := newRecordConn(conn)
	t := tls.Client(rec, clientTLS(id, wantNode, alpn))
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		if ctx.Err() != nil && !errors.As(err, new(*tls.CertificateVerificationError)) {
			err = context.Cause(ctx)
			if errors.Is(err, context.DeadlineExceeded) {
				err = os.ErrDeadlineExceeded
			}
		}
		return nil, nil, explain(err, addr, wantNode)
	}
	if err := rec.enter(&id, t); err != nil {
		conn.Close()
		return nil, nil, explain(err, addr, wantNode)
	}
	return rec, t, nil
}

// Dial connects to a node and offers it a stream with that hello, whose Protocol, Cluster, Node, Incarnation and (if it is
// empty) Encryption are filled in. The Conn is ready when it comes back; the caller Closes it. Errors: *AuthError if it is
// not that node, *RefusedError if it says no.
func Dial(ctx context.Context, addr, wantNode string, id Identity, hello wire.Hello, o Options) (*Conn, wire.HelloReply, error) {
	o = o.withDefaults()
	hello.Protocol, hello.Cluster, hello.Node, hello.Incarnation = wire.Version, id.Cluster, id.Node, id.Incarnation
	if hello.Encryption == "" {
		hello.Encryption = o.Encryption
	}
	rec, t, err := dialTLS(ctx, addr, wantNode, alpnStream, id, o)
	if err != nil {
		return nil, wire.HelloReply{}, err
	}
	c := newConn(rec, t, wantNode, o)
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	reply, err := c.offer(hello)
	if !stop() || err != nil {
		if cause := c.Err(); cause != nil {
			err = fmt.Errorf("node %s at %s: waiting for its answer to the hello: %w", wantNode, addr, cause)
		}
		c.fail(err)
		return nil, reply, err
	}
	c.incarnation = reply.Incarnation
	tune(c.tcp, o)
	if err := c.start(hello.Encryption != wire.EncryptionOff || reply.Encryption != wire.EncryptionOff); err != nil {
		c.fail(err)
		return nil, reply, err
	}
	return c, reply, nil
}

// offer sends the hello and waits for the answer.
func (c *Conn) offer(hello wire.Hello) (reply wire.HelloReply, err error) {
	addr := c.tcp.RemoteAddr().String()
	if err := c.tcp.SetDeadline(time.Now().Add(c.o.ReplyTimeout)); err != nil {
		return reply, err
	}
	said := c.sayJSON(wire.TypeHello, hello)
	if errors.As(said, new(*wire.Error)) {
		return reply, said
	}
	h, body, err := hearFrame(c.tls) // even if it could not be said: a peer that hung up said why
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		var frame *wire.Error
		if errors.As(err, &frame) {
			return reply, fmt.Errorf("node %s at %s: answer to the hello: %w", c.peer, addr, err)
		}
		return reply, explain(err, addr, c.peer)
	}
	switch h.Type {
	case wire.TypeHelloReply:
		return reply, wire.Unmarshal(h.Type, body, &reply)
	case wire.TypeRefuse:
		var no wire.Refusal
		if err := wire.Unmarshal(h.Type, body, &no); err != nil {
			return reply, err
		}
		return reply, &RefusedError{c.peer, no.Rule, no.Message, no.Next}
	}
	return reply, &wire.Error{Rule: wire.RuleOrder, Type: h.Type, Detail: "it is no answer to a hello"}
}

// Accept answers the hello of a Conn from the server and starts the stream. Node, Incarnation and (if it is empty)
// Encryption of the reply are filled in by the server's own.
func (c *Conn) Accept(reply wire.HelloReply) error {
	if reply.Encryption == "" {
		reply.Encryption = c.o.Encryption
	}
	if c.asked != wire.EncryptionOff {
		reply.Encryption = wire.EncryptionOn
	}
	reply.Node, reply.Incarnation = c.self.Node, c.self.Incarnation
	if err := c.tcp.SetDeadline(time.Now().Add(c.o.HandshakeTimeout)); err != nil {
		return err
	}
	if err := c.sayJSON(wire.TypeHelloReply, reply); err != nil {
		c.fail(err)
		return fmt.Errorf("stream from %s: answer to its hello: %w", c.peer, err)
	}
	return c.start(reply.Encryption != wire.EncryptionOff)
}

// Refuse tells the peer why its hello is not taken, or why a stream that began has to end, and ends it.
func (c *Conn) Refuse(rule, message string) error {
	no := wire.Refusal{Rule: rule, Message: message[:min(len(message), reasonBytesMax)]}
	reason := &RefusedError{Peer: "this server", Rule: rule, Message: message}
	if c.accepted {
		return c.Close(reason)
	}
	err := c.tcp.SetDeadline(time.Now().Add(c.o.HandshakeTimeout))
	if err == nil {
		err = c.sayJSON(wire.TypeRefuse, no)
	}
	c.fail(reason)
	return err
}

// sayJSON writes one frame of the hello, inside TLS, as one TLS write.
func (c *Conn) sayJSON(t wire.Type, v any) error {
	body, err := wire.Marshal(t, v)
	if err != nil {
		return err
	}
	h := wire.Header{Type: t, Body: uint32(len(body)), BodyCRC: wire.Checksum(body)}
	frame := make([]byte, wire.HeaderBytes, wire.HeaderBytes+len(body))
	h.Encode((*[wire.HeaderBytes]byte)(frame))
	_, err = c.tls.Write(append(frame, body...))
	return err
}

// hearFrame reads one frame of the hello, no byte more, and only if it is of a hello's types.
func hearFrame(r io.Reader) (wire.Header, []byte, error) {
	var head [wire.HeaderBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return wire.Header{}, nil, err
	}
	h, err := wire.Decode(head[:])
	if err != nil {
		return h, nil, err
	}
	switch h.Type {
	case wire.TypeHello, wire.TypeHelloReply, wire.TypeRefuse:
	default:
		return h, nil, &wire.Error{Rule: wire.RuleOrder, Type: h.Type, Detail: "a stream begins with a hello"}
	}
	body := make([]byte, h.Body)
	if _, err := io.ReadFull(r, body); err != nil {
		return h, nil, err
	}
	return h, body, h.CheckBody(body)
}
