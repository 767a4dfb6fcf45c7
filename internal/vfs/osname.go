package vfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// namesOfDisks are the files in a disk's folder of /sys that name it, the surest first: device-mapper (LVM) and md, NVMe, SCSI and SATA,
// virtio, MMC; of a loop device it is the file under it.
var namesOfDisks = []string{"dm/uuid", "md/uuid", "wwid", "device/wwid", "serial", "device/cid", "loop/backing_file"}

// diskName names the disk, or the partition, behind a device number by what it says of itself; "" if it says nothing.
func diskName(number uint64) string {
	return nameIn("/sys", unix.Major(number), unix.Minor(number))
}

func nameIn(sys string, major, minor uint32) string {
	dir, err := filepath.EvalSymlinks(filepath.Join(sys, "dev/block", fmt.Sprintf("%d:%d", major, minor)))
	if err != nil {
		return ""
	}
	part := ""
	if n := firstLine(filepath.Join(dir, "partition")); n != "" { // it is in the folder of its disk
		part = fmt.Sprintf(" partition %s from %s", n, firstLine(filepath.Join(dir, "start")))
		dir = filepath.Dir(dir)
	}
	for _, file := range namesOfDisks {
		if name := firstLine(filepath.Join(dir, file)); name != "" {
			return file + " " + name + part
		}
	}
	return ""
}

func firstLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line)
}

// fileSystemName names the file system of an open file; "" if it has no id of its own.
func fileSystemName(fd int) string {
	var s unix.Statfs_t
	if unix.Fstatfs(fd, &s) != nil {
		return ""
	}
	if s.Type == unix.XFS_SUPER_MAGIC { // what statfs says there is the number of its disk
		return xfsName(fd)
	}
	if s.Fsid.Val == [2]int32{} {
		return ""
	}
	return fmt.Sprintf("fs %08x%08x", uint32(s.Fsid.Val[0]), uint32(s.Fsid.Val[1]))
}

// xfsGeometry is XFS_IOC_FSGEOMETRY_V1 of Linux's xfs_fs.h: it reads 112 bytes, of which those from 64 on are the UUID.
const xfsGeometry = 0x80705864

func xfsName(fd int) string {
	var geometry [112]byte
	if _, _, err := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), xfsGeometry, uintptr(unsafe.Pointer(&geometry))); err != 0 {
		return ""
	}
	return fmt.Sprintf("xfs %x", geometry[64:80])
}
