package address

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// announce tells the other hosts of the network that this server has the address now: by ARP, as a question and as an answer, since
// some listen only to one; or by an unsolicited neighbour advertisement. An interface without addresses of its own has no such hosts.
func (a Address) announce() error {
	i, err := net.InterfaceByName(a.Interface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", a.Interface, err)
	}
	if len(i.HardwareAddr) != macBytes {
		return nil
	}
	if a.Prefix.Addr().Is4() {
		for _, operation := range []uint16{arpRequest, arpReply} {
			if err := send(i, unix.ETH_P_ARP, arpFrame(i.HardwareAddr, a.Prefix.Addr(), operation)); err != nil {
				return err
			}
		}
		return nil
	}
	return send(i, unix.ETH_P_IPV6, advertisement(i.HardwareAddr, a.Prefix.Addr()))
}

// send puts a whole frame onto the network.
func send(i *net.Interface, protocol uint16, frame []byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // 0: it receives nothing
	if err != nil {
		return fmt.Errorf("announce on %s: %w", i.Name, err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Protocol: protocol<<8 | protocol>>8, Ifindex: i.Index, Halen: macBytes}
	copy(to.Addr[:], frame)
	if err := unix.Sendto(fd, frame, unix.MSG_DONTWAIT, to); err != nil {
		return fmt.Errorf("announce on %s: %w", i.Name, err)
	}
	return nil
}

// Ethernet and ARP (RFC 826).
const (
	macBytes   = 6
	arpRequest = 1
	arpReply   = 2
)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// arpFrame says to everybody that the IPv4 address is at that hardware address: sender and target are the same (RFC 5227).
func arpFrame(mac net.HardwareAddr, ip netip.Addr, operation uint16) []byte {
	f := append(append([]byte(nil), broadcast...), mac...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, macBytes, 4) // of Ethernet and IPv4
	f = binary.BigEndian.AppendUint16(f, operation)
	f = append(append(f, mac...), ip.AsSlice()...)
	return append(append(f, broadcast...), ip.AsSlice()...)
}

// IPv6 and its neighbour advertisement (RFC 4861).
const (
	icmp6                 = 58
	neighborAdvertisement = 136
	override              = 0x20
	targetLinkLayer       = 2
	advertisementBytes    = 32
	hopLimit              = 255 // others are not believed
)

var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
)

// advertisement says to all hosts that the IPv6 address is at that hardware address.
func advertisement(mac net.HardwareAddr, ip netip.Addr) []byte {
	body := make([]byte, 8, advertisementBytes)
	body[0], body[4] = neighborAdvertisement, override
	body = append(append(append(body, ip.AsSlice()...), targetLinkLayer, 1), mac...)
	pseudo := append(append([]byte(nil), ip.AsSlice()...), allNodes.AsSlice()...)
	pseudo = append(pseudo, 0, 0, 0, byte(len(body)), 0, 0, 0, icmp6)
	binary.BigEndian.PutUint16(body[2:4], checksum(append(pseudo, body...)))
	f := append(append([]byte(nil), allNodesMAC...), mac...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_IPV6)
	f = append(f, 6<<4, 0, 0, 0, 0, byte(len(body)), icmp6, hopLimit)
	return append(append(append(f, ip.AsSlice()...), allNodes.AsSlice()...), body...)
}

// checksum is that of the internet protocols (RFC 1071) over an even number of bytes.
func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
