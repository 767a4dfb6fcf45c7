package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/dustin/go-humanize"

	"keelson/internal/api"
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

// rangesFlag is a flag OFFSET:LENGTH that may be repeated; both are sizes.
type rangesFlag []api.Run

// String implements pflag.Value.
func (f *rangesFlag) String() string {
	var texts []string
	for _, r := range *f {
		texts = append(texts, fmt.Sprintf("%d:%d", r.Offset, r.Length))
	}
	return strings.Join(texts, " ")
}

// Set implements pflag.Value.
func (f *rangesFlag) Set(s string) error {
	offset, length, ok := strings.Cut(s, ":")
	if !ok {
		return fmt.Errorf("%q is no range: write it as OFFSET:LENGTH, such as 196608:131072 or 4MiB:64KiB", s)
	}
	var r api.Run
	var err error
	if r.Offset, err = config.ParseSize(offset); err != nil {
		return err
	}
	if r.Length, err = config.ParseSize(length); err != nil {
		return err
	}
	if r.Length == 0 || r.Offset > math.MaxInt64-r.Length {
		return fmt.Errorf("%q is no range: it is empty, or ends where no volume reaches", s)
	}
	*f = append(*f, r)
	return nil
}

// Type implements pflag.Value.
func (f *rangesFlag) Type() string { return "OFFSET:LENGTH" }

// human writes a number of bytes for people.
func human(n int64) string {
	if n < 0 {
		return "-" + humanize.IBytes(uint64(-n))
	}
	return humanize.IBytes(uint64(n))
}
