package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration written as in "30s", "250ms", "2m".
type Duration time.Duration

// Of is the duration as package time has it.
func (d Duration) Of() time.Duration { return time.Duration(d) }

// String is the duration as it is written in the file.
func (d Duration) String() string { return shorten(time.Duration(d).String()) }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no duration: write it as in \"30s\", \"250ms\" or \"2m\"", text)
	}
	*d = Duration(v)
	return nil
}

// shorten drops the units that are zero at the end: 1m0s is 1m.
func shorten(s string) string {
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Size is a number of bytes written as in "64MiB". See ParseSize.
type Size int64

// String is the size in the greatest unit that divides it: 67108864 is "64MiB".
func (s Size) String() string {
	n := int64(s)
	if n == 0 {
		return "0B"
	}
	for i := len(units) - 1; i >= 0; i-- {
		if n%(1<<(10*(i+1))) == 0 {
			return strconv.FormatInt(n>>(10*(i+1)), 10) + units[i:i+1] + "iB"
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := ParseSize(string(text))
	*s = Size(v)
	return err
}

// units of 1024 and their powers, in order.
const units = "KMGTPE"

// ParseSize reads a number of bytes as coreutils, zfs and lvm do: "512", "512B", "10K", "10G" and "10GiB" are powers of
// 1024, "10GB" is a power of 1000. A fraction ("1.5G") has to come to whole bytes.
func ParseSize(s string) (int64, error) {
	bad := func(why string) (int64, error) {
		return 0, fmt.Errorf("%q is no size (%s): write it as in \"10G\", \"10GiB\" or \"512M\"", s, why)
	}
	text := strings.TrimSpace(s)
	end := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(text)
	}
	number, unit := text[:end], strings.TrimSpace(text[end:])
	factor, ok := unitBytes(unit)
	if !ok {
		return bad("unknown unit " + strconv.Quote(unit))
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n > math.MaxInt64/factor {
			return bad("too large")
		}
		return n * factor, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return bad("no number")
	}
	v := f * float64(factor)
	if v >= math.MaxInt64 {
		return bad("too large")
	}
	if v != math.Trunc(v) {
		return bad("not whole bytes")
	}
	return int64(v), nil
}

// unitBytes is the factor that a unit stands for.
func unitBytes(unit string) (int64, bool) {
	if unit == "" || strings.EqualFold(unit, "B") {
		return 1, true
	}
	power := strings.IndexByte(units, unit[0]&^0x20)
	if power < 0 {
		return 0, false
	}
	switch strings.ToLower(unit[1:]) {
	case "", "i", "ib":
		return 1 << (10 * (power + 1)), true
	case "b":
		factor := int64(1)
		for range power + 1 {
			factor *= 1000
		}
		return factor, true
	}
	return 0, false
}
