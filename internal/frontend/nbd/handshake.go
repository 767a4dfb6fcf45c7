package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	p "keelson/internal/frontend/nbd/nbdproto"
)

// errHandshake is a client that does not speak the protocol.
var errHandshake = errors.New("not an NBD client")

// handshake negotiates until the client has picked an export (the connection is attached to it then) or gives up.
func (c *conn) handshake() error {
	var hello [18]byte
	binary.BigEndian.PutUint64(hello[:], p.MagicServer)
	binary.BigEndian.PutUint64(hello[8:], p.MagicOption)
	binary.BigEndian.PutUint16(hello[16:], p.FixedNewstyle|p.NoZeroes)
	if _, err := c.nc.Write(hello[:]); err != nil {
		return err
	}
	b, err := c.in.need(4)
	if err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(b)
	if flags&^(p.FixedNewstyle|p.NoZeroes) != 0 || flags&p.FixedNewstyle == 0 {
		return fmt.Errorf("%w: unknown flags %#x", errHandshake, flags)
	}
	c.noZeroes = flags&p.NoZeroes != 0
	for range optionsMax {
		o, err := c.option()
		if err != nil {
			return err
		}
		if picked, err := c.answer(o); picked || err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: more than %d options", errHandshake, optionsMax)
}

// option is one that the client sent.
//
//	0 u64 magic | 8 u32 option | 12 u32 length | data
type option struct {
	id     uint32
	data   []byte
	tooBig bool // data was skipped
}

func (c *conn) option() (option, error) {
	b, err := c.in.need(p.OptionBytes)
	if err != nil {
		return option{}, err
	}
	if magic := binary.BigEndian.Uint64(b); magic != p.MagicOption {
		return option{}, fmt.Errorf("%w: an option that begins with %#x", errHandshake, magic)
	}
	o := option{id: binary.BigEndian.Uint32(b[8:])}
	n := binary.BigEndian.Uint32(b[12:])
	switch {
	case n > optionSkipBytesMax:
		return o, fmt.Errorf("%w: an option of %d bytes", errHandshake, n)
	case n > optionBytesMax:
		o.tooBig = true
		return o, c.in.skip(int64(n))
	}
	o.data = make([]byte, n)
	return o, c.in.fill(o.data)
}

// reply sends one reply to an option.
//
//	0 u64 magic | 8 u32 option | 12 u32 type | 16 u32 length | data
func (c *conn) reply(id, kind uint32, data []byte) error {
	b := make([]byte, p.OptReplyBytes, p.OptReplyBytes+len(data))
	binary.BigEndian.PutUint64(b, p.MagicOptionReply)
	binary.BigEndian.PutUint32(b[8:], id)
	binary.BigEndian.PutUint32(b[12:], kind)
	binary.BigEndian.PutUint32(b[16:], uint32(len(data)))
	_, err := c.nc.Write(append(b, data...))
	return err
}

func (c *conn) replyError(id, kind uint32, format string, args ...any) error {
	return c.reply(id, kind, fmt.Appendf(nil, format, args...))
}

// answer answers an option; picked: the client has an export now and its requests follow.
func (c *conn) answer(o option) (picked bool, err error) {
	if c.mustTLS() && o.id != p.OptStartTLS && o.id != p.OptAbort {
		if o.id == p.OptExportName {
			return false, fmt.Errorf("%w: an export was asked for without TLS, which is required", errHandshake)
		}
		return false, c.replyError(o.id, p.RepErrTLSReqd, "TLS is required here: use nbds:// and a certificate")
	}
	if o.tooBig {
		return false, c.replyError(o.id, p.RepErrTooBig, "an option has at most %d bytes", optionBytesMax)
	}
	switch o.id {
	case p.OptExportName:
		return c.optExportName(o)
	case p.OptAbort:
		_ = c.reply(o.id, p.RepAck, nil)
		return false, errDone
	case p.OptList:
		return false, c.optList(o)
	case p.OptStartTLS:
		return false, c.optStartTLS(o)
	case p.OptInfo, p.OptGo:
		return c.optGo(o)
	case p.OptStructuredReply:
		return false, c.optStructured(o)
	case p.OptListMetaContext, p.OptSetMetaContext:
		return false, c.optMeta(o)
	}
	return false, c.replyError(o.id, p.RepErrUnsup, "option %d is not known here", o.id)
}

func (c *conn) mustTLS() bool {
	_, unix := c.raw.(*net.UnixConn)
	return c.s.opts.TLSRequired && !c.tls && !unix
}

func (c *conn) optStructured(o option) error {
	if len(o.data) != 0 {
		return c.replyError(o.id, p.RepErrInvalid, "structured replies take no parameter")
	}
	c.structured = true
	return c.reply(o.id, p.RepAck, nil)
}

// optStartTLS goes on inside TLS. What was negotiated before is void, and nothing that arrived before may count as inside.
func (c *conn) optStartTLS(o option) error {
	switch {
	case len(o.data) != 0 || c.tls:
		return c.replyError(o.id, p.RepErrInvalid, "TLS is on already, or the option has a parameter")
	case c.s.opts.TLS == nil:
		return c.replyError(o.id, p.RepErrPolicy, "TLS is not configured here")
	case c.in.buffered() > 0:
		return fmt.Errorf("%w: data after STARTTLS", errHandshake)
	}
	if err := c.reply(o.id, p.RepAck, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.s.opts.HandshakeTimeout)
	defer cancel()
	tc := tls.Server(c.raw, c.s.opts.TLS)
	if err := tc.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	c.nc, c.tls = tc, true
	if state := tc.ConnectionState(); len(state.PeerCertificates) > 0 {
		c.s.mu.Lock()
		c.cert = state.PeerCertificates[0] // from here on Recheck sees it
		c.s.mu.Unlock()
		if again := c.s.opts.TLS.VerifyConnection; again != nil {
			if err := again(state); err != nil {
				return fmt.Errorf("TLS: %w", err)
			}
		}
	}
	c.in.sock = newStreamSocket(tc)
	c.structured, c.hasContext = false, false
	return nil
}
