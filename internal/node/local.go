package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"keelson/internal/api"
)

// The agent's socket for the command line is for root, for the agent's own user and for the members of one group. The
// socket's mode says so to the kernel; besides, each connection is asked who it is, which also names the caller in the
// audit.

// groupsMax bounds the groups of a process that are looked at.
const groupsMax = 1 << 16

// listenSocket listens on a unix socket that only the agent's user may use. A socket that a killed agent left is replaced;
// the state directory's lock says that no agent of this directory lives.
func (n *Node) listenSocket(path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("socket %s is in use by another process; stop it, or configure another path", path)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("socket %s: something that is no socket has that path; configure another one", path)
	}
	_ = os.Remove(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	old := unix.Umask(0o177) // nobody else may connect between bind and chmod
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w; choose a shorter or writable path", path, err)
	}
	return l, os.Chmod(path, 0o600)
}

// listenLocal listens on the socket of the command line, and lets the group in if the machine has it.
func (n *Node) listenLocal(path, group string) (net.Listener, error) {
	l, err := n.listenSocket(path)
	if err != nil {
		return nil, err
	}
	local := &localListener{Listener: l, n: n, gid: -1}
	if group == "" {
		return local, nil
	}
	g, err := user.LookupGroup(group)
	var unknown user.UnknownGroupError
	if errors.As(err, &unknown) {
		return local, nil // the group is the administrator's to make
	}
	if err == nil {
		local.gid, err = strconv.Atoi(g.Gid)
	}
	if err == nil {
		err = os.Chown(path, -1, local.gid)
	}
	if err == nil {
		err = os.Chmod(path, 0o660)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s for group %s: %w", path, group, err), l.Close())
	}
	return local, nil
}

// localListener accepts only those who may use the agent.
type localListener struct {
	net.Listener
	n   *Node
	gid int // -1: no group
}

// localConn is a connection whose other end is known.
type localConn struct {
	net.Conn
	caller api.Caller
}

// Accept implements net.Listener.
func (l *localListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		caller, err := l.admit(c.(*net.UnixConn))
		if err == nil {
			return &localConn{c, caller}, nil
		}
		_ = c.Close()
		l.n.log.Warn("connection refused", "socket", l.Addr(), "err", err)
	}
}

// admit finds out who is at the other end, and refuses those who may not be there.
func (l *localListener) admit(c *net.UnixConn) (api.Caller, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return api.Caller{}, err
	}
	var cred *unix.Ucred
	var groups []uint32
	var inner error
	err = raw.Control(func(fd uintptr) {
		if cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); inner == nil {
			groups, inner = peerGroups(int(fd))
		}
	})
	if err = errors.Join(err, inner); err != nil {
		return api.Caller{}, fmt.Errorf("who is at the other end is not known: %w", err)
	}
	if !mayUse(int(cred.Uid), os.Getuid(), l.gid, append(groups, cred.Gid)) {
		return api.Caller{}, fmt.Errorf("uid %d is neither root nor in the group", cred.Uid)
	}
	id := strconv.Itoa(int(cred.Uid))
	caller := api.Caller{Kind: api.CallerLocal, Name: "uid " + id, From: "uid " + id}
	if u, err := user.LookupId(id); err == nil {
		caller.Name = u.Username
	}
	return caller, nil
}

// mayUse decides who may use the agent.
func mayUse(uid, own, gid int, groups []uint32) bool {
	return uid == 0 || uid == own || gid >= 0 && slices.Contains(groups, uint32(gid))
}

// peerGroups are the supplementary groups that the process at the other end had when it connected.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && size/4 > uint32(len(groups)) && size/4 <= groupsMax:
			groups = make([]uint32, size/4)
		default:
			return nil, errno
		}
	}
}

// localContext names the caller in the contexts of a connection's requests.
func localContext(ctx context.Context, c net.Conn) context.Context {
	if l, ok := c.(*localConn); ok {
		return api.WithCaller(ctx, l.caller)
	}
	return ctx
}
