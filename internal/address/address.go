// Package address puts a volume's service address on an interface of this server while it is the source, announces it to the
// network's other hosts, and takes it away again.
//
// The address has a lifetime in the kernel, which is renewed as long as the agent lives: when it dies the address goes by
// itself, soon, so that a server that was believed dead and is not does not answer for long beside the new source. This also tells
// a service address from those that somebody has configured: these are for ever, and are never touched.
package address

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Address is one on an interface. The zero Address is none.
type Address struct {
	Prefix    netip.Prefix // such as 192.0.2.10/24
	Interface string
}

// String is how messages name it.
func (a Address) String() string { return a.Prefix.String() + " on " + a.Interface }

// ErrForeign is why an address is left alone: somebody has configured it for ever.
var ErrForeign = errors.New("it is in the server's own configuration of the network; take it out there")

// The fixed part of a message about an address (struct ifaddrmsg), and of IFA_CACHEINFO.
const (
	ifaddrBytes    = 8
	cacheInfoBytes = 16
)

// add puts the address on its interface, or renews it, for that many seconds. An IPv6 address can be used at once: whether another
// host has it is not asked, since that host is the old source.
func (a Address) add(lifetimeSeconds uint32) error {
	state, _, err := a.look()
	if err != nil {
		return err
	}
	if state == foreign {
		return fmt.Errorf("address %s: %w", a, ErrForeign)
	}
	return a.change(unix.RTM_NEWADDR, netlink.Create|netlink.Replace, func(e *netlink.AttributeEncoder) {
		if a.family() == unix.AF_INET6 {
			e.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
		}
		info := make([]byte, cacheInfoBytes)
		binary.NativeEndian.PutUint32(info[0:4], lifetimeSeconds) // preferred
		binary.NativeEndian.PutUint32(info[4:8], lifetimeSeconds) // valid
		e.Bytes(unix.IFA_CACHEINFO, info)
	})
}

// remove takes the address away, if it is there and not somebody else's.
func (a Address) remove() error {
	state, _, err := a.look()
	if err != nil || state != ours {
		return err
	}
	err = a.change(unix.RTM_DELADDR, 0, nil)
	if errors.Is(err, unix.EADDRNOTAVAIL) { // its lifetime has just ended
		return nil
	}
	return err
}

// change sends one message about the address.
func (a Address) change(kind netlink.HeaderType, flags netlink.HeaderFlags, more func(*netlink.AttributeEncoder)) error {
	i, err := net.InterfaceByName(a.Interface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", a.Interface, err)
	}
	e := netlink.NewAttributeEncoder()
	ip := a.Prefix.Addr().AsSlice()
	e.Bytes(unix.IFA_LOCAL, ip)
	e.Bytes(unix.IFA_ADDRESS, ip)
	if more != nil {
		more(e)
	}
	attributes, err := e.Encode()
	if err != nil {
		return err
	}
	data := make([]byte, ifaddrBytes, ifaddrBytes+len(attributes))
	data[0], data[1] = a.family(), byte(a.Prefix.Bits())
	binary.NativeEndian.PutUint32(data[4:8], uint32(i.Index))
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Execute(netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge | flags}, Data: append(data, attributes...)})
	if err != nil {
		return fmt.Errorf("address %s: %w", a, err)
	}
	return nil
}

func (a Address) family() byte {
	if a.Prefix.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// presence of an address on its interface.
type presence int

const (
	absent  presence = iota
	ours             // it has a lifetime
	foreign          // it is for ever
)

// look asks the kernel whether the address is there.
func (a Address) look() (presence, *net.Interface, error) {
	i, err := net.InterfaceByName(a.Interface)
	if err != nil {
		return absent, nil, fmt.Errorf("interface %s: %w", a.Interface, err)
	}
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return absent, i, err
	}
	defer c.Close()
	request := make([]byte, ifaddrBytes)
	request[0] = a.family()
	messages, err := c.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETADDR, Flags: netlink.Request | netlink.Dump}, Data: request})
	if err != nil {
		return absent, i, fmt.Errorf("addresses of %s: %w", a.Interface, err)
	}
	for _, m := range messages {
		if len(m.Data) < ifaddrBytes || int(binary.NativeEndian.Uint32(m.Data[4:8])) != i.Index {
			continue
		}
		ip, flags, err := decode(m.Data)
		switch {
		case err != nil:
			return absent, i, err
		case ip != a.Prefix.Addr():
		case flags&unix.IFA_F_PERMANENT != 0:
			return foreign, i, nil
		default:
			return ours, i, nil
		}
	}
	return absent, i, nil
}

// decode reads a message about an address: the address itself and its flags.
func decode(data []byte) (ip netip.Addr, flags uint32, err error) {
	d, err := netlink.NewAttributeDecoder(data[ifaddrBytes:])
	if err != nil {
		return ip, 0, err
	}
	flags = uint32(data[2])
	for d.Next() {
		switch d.Type() {
		case unix.IFA_LOCAL:
			ip, _ = netip.AddrFromSlice(d.Bytes())
		case unix.IFA_ADDRESS:
			if !ip.IsValid() { // IPv6 has only this
				ip, _ = netip.AddrFromSlice(d.Bytes())
			}
		case unix.IFA_FLAGS:
			flags = d.Uint32()
		}
	}
	return ip, flags, d.Err()
}
