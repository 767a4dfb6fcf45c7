package nbdclient

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	p "keelson/internal/frontend/nbd/nbdproto"
)

// Options of a connection.
type Options struct {
	TLS     *tls.Config   // asks for TLS (also implied, with the system's CAs, by nbds://)
	Simple  bool          // don't ask for structured replies (and so for no block status)
	Timeout time.Duration // of connect and handshake; default 10 s
}

// RefusedError is an option that the server refused.
type RefusedError struct {
	Option, Reply uint32
	Message       string
}

// Error says what was refused.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("nbd: the server refuses option %d with %#x: %s", e.Option, e.Reply, e.Message)
}

// Dial connects to nbd://host:port/export, nbds://host:port/export or nbd+unix:///export?socket=PATH.
func Dial(uri string) (*Client, error) { return DialOptions(uri, Options{}) }

// DialOptions is Dial with options.
func DialOptions(uri string, o Options) (*Client, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("nbd: %w", err)
	}
	network, address := "tcp", u.Host
	switch u.Scheme {
	case "nbd+unix", "nbds+unix":
		network, address = "unix", u.Query().Get("socket")
	case "nbd", "nbds":
		if u.Port() == "" {
			address = net.JoinHostPort(u.Hostname(), "10809")
		}
	default:
		return nil, fmt.Errorf("nbd: %q is not an address of the form nbd://host:port/export or nbd+unix:///export?socket=PATH", uri)
	}
	if strings.HasPrefix(u.Scheme, "nbds") && o.TLS == nil {
		o.TLS = &tls.Config{ServerName: u.Hostname()}
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	nc, err := net.DialTimeout(network, address, o.Timeout)
	if err != nil {
		return nil, fmt.Errorf("nbd: %w", err)
	}
	c, err := handshake(nc, strings.TrimPrefix(u.Path, "/"), o)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("nbd: %s: %w", uri, err)
	}
	return c, nil
}

// dialer is a handshake under way.
type dialer struct {
	nc net.Conn
	r  *bufio.Reader
}

func handshake(nc net.Conn, export string, o Options) (*Client, error) {
	nc.SetDeadline(time.Now().Add(o.Timeout))
	d := &dialer{nc, bufio.NewReader(nc)}
	var hello [18]byte
	if _, err := io.ReadFull(d.r, hello[:]); err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint64(hello[:]) != p.MagicServer || binary.BigEndian.Uint64(hello[8:]) != p.MagicOption {
		return nil, fmt.Errorf("not an NBD server: it begins with %x", hello)
	}
	if _, err := nc.Write(binary.BigEndian.AppendUint32(nil, p.FixedNewstyle|p.NoZeroes)); err != nil {
		return nil, err
	}
	if o.TLS != nil {
		if err := d.startTLS(o.TLS); err != nil {
			return nil, err
		}
	}
	if !o.Simple {
		if err := d.structured(export); err != nil {
			return nil, err
		}
	}
	c := &Client{nc: d.nc, calls: map[uint64]*Call{}, gone: make(chan struct{})}
	name := append(binary.BigEndian.AppendUint32(nil, uint32(len(export))), export...)
	err := d.ask(p.OptGo, append(name, 0, 0), func(kind uint32, data []byte) {
		if kind == p.RepInfo && len(data) == 12 && binary.BigEndian.Uint16(data) == p.InfoExport {
			c.size, c.flags = int64(binary.BigEndian.Uint64(data[2:])), binary.BigEndian.Uint16(data[10:])
		}
	})
	if err != nil {
		return nil, err
	}
	d.nc.SetDeadline(time.Time{})
	c.w = bufio.NewWriterSize(d.nc, 64<<10)
	go c.receive(d.r)
	return c, nil
}

func (d *dialer) startTLS(config *tls.Config) error {
	if err := d.ask(p.OptStartTLS, nil, nil); err != nil {
		return err
	}
	tc := tls.Client(d.nc, config)
	if err := tc.Handshake(); err != nil {
		return err
	}
	d.nc, d.r = tc, bufio.NewReader(tc)
	return nil
}

func (d *dialer) structured(export string) error {
	if err := d.ask(p.OptStructuredReply, nil, nil); err != nil {
		return err
	}
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(export))), export...)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(len(p.ContextAllocation)))
	return d.ask(p.OptSetMetaContext, append(b, p.ContextAllocation...), nil)
}

// ask sends an option and calls each with the replies before the ACK.
func (d *dialer) ask(id uint32, data []byte, each func(kind uint32, data []byte)) error {
	b := binary.BigEndian.AppendUint64(nil, p.MagicOption)
	b = binary.BigEndian.AppendUint32(b, id)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if _, err := d.nc.Write(append(b, data...)); err != nil {
		return err
	}
	for {
		var h [p.OptReplyBytes]byte
		if _, err := io.ReadFull(d.r, h[:]); err != nil {
			return err
		}
		kind, n := binary.BigEndian.Uint32(h[12:]), binary.BigEndian.Uint32(h[16:])
		if binary.BigEndian.Uint64(h[:]) != p.MagicOptionReply || binary.BigEndian.Uint32(h[8:]) != id || n > 64<<10 {
			return fmt.Errorf("not a reply to option %d: %x", id, h)
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(d.r, data); err != nil {
			return err
		}
		switch {
		case kind == p.RepAck:
			return nil
		case kind&(1<<31) != 0:
			return &RefusedError{id, kind, string(data)}
		case each != nil:
			each(kind, data)
		}
	}
}
