package main

import (
	"strings"

	"github.com/dustin/go-humanize"

	"keelson/internal/config"
)

// sizeFlag is a flag such as 10G or 20MiB; rates may end with /s.
type sizeFlag struct {
	bytes int64
	given bool
}

// String implements pflag.Value.
func (f *sizeFlag) String() string {
	if f.bytes == 0 && !f.given {
		return ""
	}
	return config.Size(f.bytes).String()
}

// Set implements pflag.Value.
func (f *sizeFlag) Set(s string) error {
	n, err := config.ParseSize(strings.TrimSuffix(s, "/s"))
	f.bytes, f.given = n, true
	return err
}

// Type implements pflag.Value.
func (f *sizeFlag) Type() string { return "size" }

// pointer is nil if the flag was not given.
func (f *sizeFlag) pointer() *int64 {
	if !f.given {
		return nil
	}
	return &f.bytes
}

// human writes a number of bytes for people.
func human(n int64) string {
	if n < 0 {
		return "-" + humanize.IBytes(uint64(-n))
	}
	return humanize.IBytes(uint64(n))
}
