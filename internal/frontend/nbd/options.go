package nbd

import (
	"encoding/binary"
	"fmt"

	p "keelson/internal/frontend/nbd/nbdproto"
)

// cursor takes an option's data apart; ok turns false when it is too short.
type cursor struct {
	b  []byte
	ok bool
}

func (k *cursor) take(n int) []byte {
	if !k.ok || n > len(k.b) {
		k.ok = false
		return nil
	}
	b := k.b[:n]
	k.b = k.b[n:]
	return b
}

func (k *cursor) u16() uint16 {
	if b := k.take(2); k.ok {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (k *cursor) u32() uint32 {
	if b := k.take(4); k.ok {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// str takes a string with its length before it.
func (k *cursor) str() string {
	n := k.u32()
	if n > nameBytesMax {
		k.ok = false
	}
	return string(k.take(int(n)))
}

// end reports whether all was there and nothing is left.
func (k *cursor) end() bool { return k.ok && len(k.b) == 0 }

// optExportName is the oldest way to pick an export; it has no way to say no.
func (c *conn) optExportName(o option) (bool, error) {
	if len(o.data) > nameBytesMax {
		return false, fmt.Errorf("%w: an export name of %d bytes", errHandshake, len(o.data))
	}
	if err := c.attach(string(o.data)); err != nil {
		return false, err
	}
	b := c.exportInfo(c.exp)[2:]
	if !c.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	_, err := c.nc.Write(b)
	return true, err
}

// attach picks the export for the transmission.
func (c *conn) attach(name string) error {
	if err := c.s.attach(c, name); err != nil {
		return err
	}
	c.size = c.exp.dev.Size()
	c.hasContext = c.hasContext && c.context == name
	return nil
}

func (c *conn) optList(o option) error {
	if len(o.data) != 0 {
		return c.replyError(o.id, p.RepErrInvalid, "the list of exports takes no parameter")
	}
	for _, name := range c.s.names() {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
		if err := c.reply(o.id, p.RepServer, append(b, name...)); err != nil {
			return err
		}
	}
	return c.reply(o.id, p.RepAck, nil)
}

// optGo answers INFO and GO. Data: u32 length, name, u16 count, u16 kinds of information wanted.
func (c *conn) optGo(o option) (bool, error) {
	k := cursor{o.data, true}
	name := k.str()
	wanted := map[uint16]bool{}
	for range k.u16() {
		if wanted[k.u16()] = true; !k.ok {
			break
		}
	}
	if !k.end() {
		return false, c.replyError(o.id, p.RepErrInvalid, "the option is malformed")
	}
	e, err := c.s.find(name)
	if err == nil && o.id == p.OptGo {
		if err = c.attach(name); err == nil {
			e = c.exp
		}
	}
	if err != nil {
		return false, c.reply(o.id, p.RepErrUnknown, []byte(err.Error()))
	}
	for _, info := range c.infos(e, wanted) {
		if err := c.reply(o.id, p.RepInfo, info); err != nil {
			return false, err
		}
	}
	return o.id == p.OptGo, c.reply(o.id, p.RepAck, nil)
}

// infos are the pieces of information about an export: always what it is, the others if wanted.
func (c *conn) infos(e *export, wanted map[uint16]bool) [][]byte {
	out := [][]byte{c.exportInfo(e)}
	if wanted[p.InfoName] {
		out = append(out, append(binary.BigEndian.AppendUint16(nil, p.InfoName), e.name...))
	}
	if wanted[p.InfoDescription] && e.opts.Description != "" {
		out = append(out, append(binary.BigEndian.AppendUint16(nil, p.InfoDescription), e.opts.Description...))
	}
	if wanted[p.InfoBlockSize] {
		b := binary.BigEndian.AppendUint16(nil, p.InfoBlockSize)
		for _, size := range []uint32{1, 4096, p.PayloadBytesMax} { // minimum, preferred, maximum
			b = binary.BigEndian.AppendUint32(b, size)
		}
		out = append(out, b)
	}
	return out
}

// exportInfo is u16 InfoExport, u64 size, u16 transmission flags.
func (c *conn) exportInfo(e *export) []byte {
	flags := uint16(p.HasFlags | p.SendFlush | p.CanMultiConn)
	if e.opts.ReadOnly {
		flags |= p.ReadOnly
	} else {
		flags |= p.SendFUA | p.SendTrim | p.SendWriteZeroes
	}
	if c.structured {
		flags |= p.SendDF
	}
	b := binary.BigEndian.AppendUint16(nil, p.InfoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(e.dev.Size()))
	return binary.BigEndian.AppendUint16(b, flags)
}

// optMeta lists or sets metadata contexts: there is one. Data: u32 length, export name, u32 count, count times u32 length, query.
func (c *conn) optMeta(o option) error {
	k := cursor{o.data, true}
	name := k.str()
	n := k.u32()
	set := o.id == p.OptSetMetaContext
	match := !set && n == 0
	for i := uint32(0); i < n && k.ok; i++ {
		query := k.str()
		match = match || query == p.ContextAllocation || !set && query == "base:"
	}
	if !k.end() || set && !c.structured {
		return c.replyError(o.id, p.RepErrInvalid, "the option is malformed, or comes before structured replies")
	}
	if set {
		c.hasContext = false
	}
	if _, err := c.s.find(name); err != nil {
		return c.reply(o.id, p.RepErrUnknown, []byte(err.Error()))
	}
	if match {
		var id uint32
		if set {
			id, c.hasContext, c.context = contextID, true, name
		}
		b := binary.BigEndian.AppendUint32(nil, id)
		if err := c.reply(o.id, p.RepMetaContext, append(b, p.ContextAllocation...)); err != nil {
			return err
		}
	}
	return c.reply(o.id, p.RepAck, nil)
}
