package nbd

import (
	"fmt"
	"net"
	"time"
)

// Serve accepts connections until the listener fails or the server is closed, and then closes the listener. It returns
// nil after Close.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		l.Close()
		return ErrClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		l.Close()
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	for {
		nc, err := l.Accept()
		if err == nil {
			s.admit(nc)
			continue
		}
		if s.isClosed() {
			return nil
		}
		if !isTransient(err) {
			return fmt.Errorf("nbd: accept on %s: %w", l.Addr(), err)
		}
		s.opts.Log.Warn("nbd: can't accept a connection; trying again", "listener", l.Addr().String(), "error", err)
		time.Sleep(acceptPause)
	}
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// ServeConn serves one connection that was made in another way. What it returns is closed when the connection is, and no
// request that came by it is with the device any more; at once if it is refused.
func (s *Server) ServeConn(nc net.Conn) <-chan struct{} { return s.admit(nc) }

// admit starts a connection if there is room for it, and returns what is closed at its end.
func (s *Server) admit(nc net.Conn) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := len(s.conns) >= s.opts.ConnectionsMax
	if full && !s.full {
		s.opts.Log.Warn("nbd: connection refused: there are too many already", "connections_max", s.opts.ConnectionsMax)
	}
	s.full = full
	if full || s.closed || s.hasLeft(nc) {
		nc.Close()
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	c := newConn(s, nc)
	s.conns[c] = struct{}{}
	go c.run()
	return c.done
}

// Close closes the listeners and ends all connections as RemoveExport does.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	var conns []*conn
	for c := range s.conns {
		conns = append(conns, c)
	}
	for l := range s.listeners {
		l.Close()
	}
	s.mu.Unlock()
	if left := s.end(conns); left > 0 {
		return fmt.Errorf("nbd: close: %d connections: %w", left, ErrStillInUse)
	}
	return nil
}
