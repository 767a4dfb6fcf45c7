// Package awake keeps this server's processors from falling asleep while writes travel between servers.
//
// A mirrored write is a chain of waits: the source waits for the target, the application for the source. A processor
// that has nothing else to do falls asleep in each of them, and on many machines waking it costs more than all the work
// of the write (30 to 70 µs each time in virtual machines, up to some 100 µs out of deep states of a bare one). Linux lets a
// program say how long a wake-up may take: whoever holds /dev/cpu_dma_latency open, with a limit written into it, has that
// limit kept (the kernel's "PM Quality Of Service Interface"); with 0 an idle processor waits awake. The price is power,
// so the wish stands only while there is traffic.
package awake

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// Device is the kernel's file for it; root may write it.
const Device = "/dev/cpu_dma_latency"

const (
	lookEvery  = 100 * time.Millisecond // how often traffic is looked at
	quietAfter = time.Second            // how long the wish stands without any
)

// wish is a limit of 0 µs, as the kernel reads it: a 32-bit number.
var wish = []byte{0, 0, 0, 0}

// Keep holds the wish while what traffic() returns changes, until ctx ends. Traffic is looked at from outside, so that a write has
// nothing to do for it; a burst begins with a few writes that are as slow as without. Where the kernel has no such
// file, or does not let this process use it, Keep says so once and returns: writes are then slower, and nothing else.
func Keep(ctx context.Context, device string, traffic func() int64, log *slog.Logger) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var held *os.File
	defer func() { release(held) }()
	seen, grew := traffic(), time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-look.C:
			if n := traffic(); n != seen {
				seen, grew = n, now
			}
			switch busy := !grew.IsZero() && now.Sub(grew) < quietAfter; {
			case busy && held == nil:
				var err error
				if held, err = hold(device); err != nil {
					log.Info("processors may sleep between mirrored writes, which makes single writes slower", "err", err)
					return
				}
			case !busy && held != nil:
				release(held)
				held = nil
			}
		}
	}
}

// Check says why this process cannot make the wish; nil if it can.
func Check(device string) error {
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	release(f)
	return err
}

// hold makes the wish; it stands until release.
func hold(device string) (*os.File, error) {
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(wish); err != nil {
		_ = f.Close() // nothing stands
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	return f, nil
}

func release(f *os.File) {
	if f != nil {
		_ = f.Close() // the wish ends with the open file, whatever close says
	}
}
