package nbdkernel

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// The part of the NBD protocol that is needed before the kernel takes a connection over: the oldest way to pick an export, which
// ends in simple replies, the only ones that the kernel knows.
const (
	serverMagic     = 0x4e42444d41474943 // NBDMAGIC
	optionMagic     = 0x49484156454f5054 // IHAVEOPT
	fixedNewstyle   = 1
	noZeroes        = 2
	optExportName   = 1
	canMultiConn    = 1 << 8
	handshakeMax    = 10 * time.Second
	greetingBytes   = 18
	exportInfoBytes = 10
)

// export is what the server says of the export.
type export struct {
	size  uint64
	flags uint16
}

// connect makes a connection to the export on the socket, ready for the kernel.
func connect(socket, name string) (*os.File, export, error) {
	conn, err := net.DialTimeout("unix", socket, handshakeMax)
	if err != nil {
		return nil, export{}, err
	}
	defer conn.Close() // the file has a descriptor of its own
	if err := conn.SetDeadline(time.Now().Add(handshakeMax)); err != nil {
		return nil, export{}, err
	}
	e, err := handshake(conn, name)
	if err != nil {
		return nil, e, fmt.Errorf("NBD handshake for %s at %s: %w", name, socket, err)
	}
	f, err := conn.(*net.UnixConn).File()
	return f, e, err
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
