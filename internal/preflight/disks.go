package preflight

import (
	"strings"

	"keelson/internal/api"
)

const flushSlow = 0.050 // seconds

// disks is what the copies stand on.
func (j *judge) disks(servers []Server) {
	for i := range servers {
		for k := range servers[i].Disks {
			j.disk(&servers[i], &servers[i].Disks[k])
		}
	}
}

// sizeOf is the volume's size: as asked for, or what the source has.
func sizeOf(want Wanted, servers []Server) int64 {
	if want.SizeBytes > 0 {
		return want.SizeBytes
	}
	for _, s := range servers {
		for _, d := range s.Disks {
			if s.Node == want.Source && d.Path == want.Paths[s.Node] {
				return d.SizeBytes
			}
		}
	}
	return 0
}

func (j *judge) disk(s *Server, d *Disk) {
	on := func(check, format string, args ...any) api.CheckItem {
		i := about(check, s.Node, d.Path, format, args...)
		i.Volume = d.Volume
		return i
	}
	if d.Err != "" {
		j.add(on("backing", ""), problem(true, "see that the path is right and the agent may use it", "it cannot be looked at: %s", d.Err))
		return
	}
	if d.Volume == "" {
		j.place(on, d, j.want.SizeBytes)
	} else {
		j.add(on("backing", "holds the copy of %s; this agent alone has it open", d.Volume))
	}
	if d.Kind == KindDevice {
		j.add(measured(on("backing-blocks", "logical blocks of %d bytes", d.BlockBytes), float64(d.BlockBytes), "bytes"),
			warning(d.BlockBytes > blockBytesUsual, "", "logical blocks of %d bytes: writes of applications that are smaller or not aligned are read, changed and written there", d.BlockBytes))
	}
	switch t := d.Flush; {
	case t.Err != "":
		j.add(on("backing-flush", ""), warning(true, "see the kernel's log", "its cache cannot be flushed: %s", t.Err))
	case t.Times > 0:
		j.add(measured(on("backing-flush", "its cache is flushed in %s, at worst in %s (nothing was written)", seconds(t.Median), seconds(t.Worst)), t.Median, "seconds"),
			warning(t.Median > flushSlow, "flushes of applications wait for it on every sync copy: look at the disk", ""))
	}
	if d.Kind == KindNone {
		return
	}
	j.add(on("state-on-volume", "the state directory is not on it"),
		problem(d.StateOnIt, "move the state directory to a file system that is not on this volume or its disk", "the state directory %s is on a file system that is on this disk or volume: the intent log would wait for itself", s.State.Path))
}

// place is what is at a path that no copy uses yet.
func (j *judge) place(on func(string, string, ...any) api.CheckItem, d *Disk, size int64) {
	switch d.Kind {
	case KindNone:
		next := "make it, or say how large it is to be (--size)"
		i := on("backing", "is not there yet: a file of %s will be made; %s are free", bytes(size), bytes(d.RoomBytes))
		j.add(i, warning(d.RoomBytes < size, "free some space, or choose another file system", "is not there yet: a file of %s will be made, and only %s are free: it cannot be filled", bytes(size), bytes(d.RoomBytes)),
			problem(size == 0, next, "is not there, and its size is not known"))
		return
	case KindOther:
		j.add(on("backing", ""), problem(true, "name a file or a block device", "is neither a file nor a block device"))
		return
	}
	what := "a file"
	if d.Kind == KindDevice {
		what = "a block device"
	}
	held := strings.Join(d.Holders, ", ")
	i := on("backing", "is %s that nobody uses", what)
	j.add(i, problem(d.InUse != "", "stop what uses it (lsof or fuser show it), or name another path", "is %s, and this agent cannot have it for itself: %s", what, d.InUse),
		problem(held != "", "unmount it and stop what uses it: only Keelson may write to it", "is %s, and in use: %s", what, held))
	if size == 0 {
		return
	}
	i = measured(on("backing-size", "has %s, as the volume", bytes(d.SizeBytes)), float64(d.SizeBytes), "bytes")
	j.add(i, warning(d.SizeBytes > size, "nothing, if that is meant: what is beyond the volume's size stays unused", "has %s, more than the %s of the volume", bytes(d.SizeBytes), bytes(size)),
		problem(d.SizeBytes < size, "use a larger file or device, or a smaller volume (--size)", "has %d bytes, the volume needs %d", d.SizeBytes, size),
		problem(size%512 != 0, "give the volume a size that is a multiple of 512 (--size)", "a volume of %d bytes is not possible", size))
}
