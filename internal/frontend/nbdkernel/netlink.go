package nbdkernel

import (
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
)

// The kernel's interface (linux/nbd-netlink.h).
const (
	familyName = "nbd"

	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3

	attrIndex       = 1
	attrSize        = 2
	attrBlockSize   = 3
	attrTimeout     = 4
	attrServerFlags = 5
	attrSockets     = 7
	attrDeadConn    = 8
	attrBackend     = 10

	sockItem = 1
	sockFD   = 1
)

// request is what a command carries; what is zero is left out, but for what has a flag of its own.
type request struct {
	index       int // -1: the kernel picks one
	size        uint64
	blockSize   uint64
	timeout     uint64 // seconds; 0 is none
	hasTimeout  bool
	serverFlags uint64
	deadConn    uint64 // seconds
	backend     string
	socket      int
	hasSocket   bool
}

// encode writes the attributes.
func (r request) encode() ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	if r.index >= 0 {
		e.Uint32(attrIndex, uint32(r.index))
	}
	for _, a := range []struct {
		kind  uint16
		value uint64
		set   bool
	}{
		{attrSize, r.size, r.size != 0}, {attrBlockSize, r.blockSize, r.blockSize != 0}, {attrTimeout, r.timeout, r.hasTimeout},
		{attrServerFlags, r.serverFlags, r.serverFlags != 0}, {attrDeadConn, r.deadConn, r.deadConn != 0},
	} {
		if a.set {
			e.Uint64(a.kind, a.value)
		}
	}
	if r.backend != "" {
		e.String(attrBackend, r.backend)
	}
	if r.hasSocket {
		e.Nested(attrSockets, func(list *netlink.AttributeEncoder) error {
			list.Nested(sockItem, func(item *netlink.AttributeEncoder) error {
				item.Uint32(sockFD, uint32(r.socket))
				return nil
			})
			return nil
		})
	}
	return e.Encode()
}

// client is a connection to the kernel's NBD driver.
type client struct {
	conn   *genetlink.Conn
	family genetlink.Family
}

// dial reaches the driver. Its family exists in the first network namespace only, which is that of process 1: an agent in
// another one asks there.
func dial() (*client, error) {
	ns, err := os.Open("/proc/1/ns/net")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	config := &netlink.Config{}
	mine, _ := os.Readlink("/proc/self/ns/net")
	first, _ := os.Readlink("/proc/1/ns/net")
	if mine != first {
		config.NetNS = int(ns.Fd())
	}
	conn, err := genetlink.Dial(config)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	family, err := conn.GetFamily(familyName)
	if err != nil {
		conn.Close()
		if errors.Is(err, os.ErrNotExist) {
			err = errors.New("the kernel's module nbd is not loaded")
		}
		return nil, err
	}
	return &client{conn, family}, nil
}

func (c *client) close() { c.conn.Close() }

// do sends a command and returns the index of the answer, if there is one.
func (c *client) do(command uint8, r request) (index int, err error) {
	data, err := r.encode()
	if err != nil {
		return -1, err
	}
	answers, err := c.conn.Execute(genetlink.Message{Header: genetlink.Header{Command: command, Version: c.family.Version}, Data: data},
		c.family.ID, netlink.Request|netlink.Acknowledge)
	if err != nil {
		return -1, err
	}
	index = r.index
	for _, a := range answers {
		if a.Header.Command != cmdConnect {
			continue // the acknowledgement, which has no attributes
		}
		d, err := netlink.NewAttributeDecoder(a.Data)
		if err != nil {
			return -1, err
		}
		for d.Next() {
			if d.Type() == attrIndex {
				index = int(d.Uint32())
			}
		}
		if err := d.Err(); err != nil {
			return -1, err
		}
	}
	return index, nil
}
