package nbdkernel

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The part of the NBD protocol that is needed before the kernel takes a connection over: the oldest way to pick an export, which
// ends in simple replies, the only ones that the kernel knows.
const (
	serverMagic     = 0x4e42444d41474943 // NBDMAGIC
	optionMagic     = 0x49484156454f5054 // IHAVEOPT
	fixedNewstyle   = 1
	noZeroes        = 2
	optExportName   = 1
	handshakeMax    = 10 * time.Second
	greetingBytes   = 18
	exportInfoBytes = 10
)

// export is what the server says of the export.
type export struct {
	size  uint64
	flags uint16
}

// link is the server's end of the device's connection.
type link struct {
	conn   net.Conn
	served <-chan struct{} // closed when the server is done with it
}

func (l link) close() { _ = l.conn.Close() }

// connect makes a connection to the export: the server's end of it, and the other one, ready for the kernel, which ends the
// connection when it is closed and the kernel has not taken it.
func connect(o Options) (link, *os.File, export, error) {
	kernel, server, err := pair()
	if err != nil {
		return link{}, nil, export{}, err
	}
	defer kernel.Close() // the file has a descriptor of its own
	l := link{server, o.Serve(server)}
	e, f, err := prepare(kernel, o.Export)
	if err != nil {
		l.close()
		return link{}, nil, export{}, fmt.Errorf("NBD handshake for %s: %w", o.Export, err)
	}
	return l, f, e, nil
}

func prepare(conn *net.UnixConn, name string) (export, *os.File, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeMax)); err != nil {
		return export{}, nil, err
	}
	e, err := handshake(conn, name)
	if err != nil {
		return export{}, nil, err
	}
	f, err := conn.File()
	return e, f, err
}

// pair makes two connected sockets.
func pair() (a, b *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "nbd")
		c, failed := net.FileConn(f) // has a descriptor of its own
		f.Close()
		if failed != nil {
			err = failed
			continue
		}
		ends[i] = c.(*net.UnixConn)
	}
	if err != nil {
		for _, c := range ends {
			if c != nil {
				c.Close()
			}
		}
	}
	return ends[0], ends[1], err
}

func handshake(conn io.ReadWriter, name string) (export, error) {
	greeting := make([]byte, greetingBytes)
	if _, err := io.ReadFull(conn, greeting); err != nil {
		return export{}, err
	}
	flags := binary.BigEndian.Uint16(greeting[16:])
	if binary.BigEndian.Uint64(greeting) != serverMagic || binary.BigEndian.Uint64(greeting[8:]) != optionMagic || flags&(fixedNewstyle|noZeroes) != fixedNewstyle|noZeroes {
		return export{}, fmt.Errorf("the greeting %x is no fixed newstyle server's", greeting)
	}
	option := binary.BigEndian.AppendUint32(nil, fixedNewstyle|noZeroes)
	option = binary.BigEndian.AppendUint64(option, optionMagic)
	option = binary.BigEndian.AppendUint32(option, optExportName)
	option = binary.BigEndian.AppendUint32(option, uint32(len(name)))
	if _, err := conn.Write(append(option, name...)); err != nil {
		return export{}, err
	}
	info := make([]byte, exportInfoBytes)
	if _, err := io.ReadFull(conn, info); err != nil { // a server that has no such export hangs up
		return export{}, fmt.Errorf("no such export: %w", err)
	}
	return export{binary.BigEndian.Uint64(info), binary.BigEndian.Uint16(info[8:])}, nil
}
