package nbd

import (
	"net"
	"net/netip"
	"time"
)

// leaveMin is how long those are closed who come again as soon as they have lost their connection, as qemu does: one whose connection the kernel has made
// and that was not accepted when the address went would be told nothing.
const leaveMin = 200 * time.Millisecond

// Leave is called before this machine gives up one of its addresses. It ends the connections that came to it: those that use an export as
// RemoveExport does, but within limit, and those in a handshake at once. Further ones are closed as they come, until Return. Once the address is gone
// nothing can be said to a client any more, and one that only listens would wait for ever. Therefore it returns no earlier than after leaveMin.
func (s *Server) Leave(local netip.Addr, limit time.Duration) {
	enough := time.NewTimer(leaveMin)
	defer func() { <-enough.C }()
	s.mu.Lock()
	s.left[local.Unmap()] = struct{}{}
	var using, others []*conn
	for c := range s.conns {
		switch {
		case localOf(c.raw) != local.Unmap():
		case c.exp != nil:
			using = append(using, c)
		default:
			others = append(others, c)
		}
	}
	s.mu.Unlock()
	for _, c := range others {
		c.cut()
	}
	for _, c := range using {
		c.drain()
	}
	for _, c := range waitGone(using, limit) {
		c.cut()
	}
}

// Return takes connections to that address again. It may be called at any time.
func (s *Server) Return(local netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.left, local.Unmap())
}

// hasLeft reports whether the connection came to an address that was given up. The caller holds mu.
func (s *Server) hasLeft(nc net.Conn) bool {
	if len(s.left) == 0 {
		return false
	}
	_, left := s.left[localOf(nc)]
	return left
}

// localOf is the address that a client dialed; of a unix socket it is not valid.
func localOf(nc net.Conn) netip.Addr {
	if tcp, ok := nc.LocalAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
