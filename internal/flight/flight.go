// Package flight keeps the last seconds of what the agent's goroutines did (runtime/trace's flight recorder), so that the
// question "why was that write slow?" can be answered after the fact: on request, and by itself when a write stalls.
// `go tool trace FILE` shows a recording.
//
// What it costs (BenchmarkRecordedWrites in package node: writes of 4 KiB to a volume with a sync target, source and target both recorded; medians of the
// processor's time in eight runs on two busy cores): with 16 writes under way 21.1 µs a write instead of 19.0, with one no difference that
// could be seen (55.7 and 55.6). It is off unless it is asked for.
package flight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/trace"
	"slices"
	"strings"
	"time"
)

// Limits of the recorder and of what it leaves on the disk.
const (
	keepAge      = 10 * time.Second // of what is recorded, at least
	bufferBytes  = 16 << 20         // of memory, about
	filesMax     = 4                // recordings of stalls; the oldest is removed
	lookEvery    = time.Second
	pauseBetween = 10 * time.Minute // between two recordings of stalls
)

// Recorder records from Start to Stop.
type Recorder struct {
	dir string
	r   *trace.FlightRecorder
}

// Start begins to record. Recordings of stalls go to files in dir. There can be one in a process.
func Start(dir string) (*Recorder, error) {
	r := trace.NewFlightRecorder(trace.FlightRecorderConfig{MinAge: keepAge, MaxBytes: bufferBytes})
	if err := r.Start(); err != nil {
		return nil, fmt.Errorf("flight recorder: %w", err)
	}
	return &Recorder{dir, r}, nil
}

// Stop ends it.
func (r *Recorder) Stop() { r.r.Stop() }

// WriteTo writes the last seconds. Only one can be written at a time: another one meanwhile is an error.
func (r *Recorder) WriteTo(w io.Writer) (int64, error) { return r.r.WriteTo(w) }

// Watch looks at how long the oldest write has waited, until ctx ends, and keeps a recording of each stall: not more than one
// in ten minutes, the newest four in all. tell gets its file, or why it could not be written.
func (r *Recorder) Watch(ctx context.Context, stall time.Duration, waits func() (object string, wait time.Duration), tell func(object string, wait time.Duration, file string, err error)) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-look.C:
			object, wait := waits()
			if wait < stall || !last.IsZero() && now.Sub(last) < pauseBetween {
				continue
			}
			last = now
			file, err := r.keep(now)
			tell(object, wait, file, err)
		}
	}
}

// keep writes a recording to a file and removes the oldest ones.
func (r *Recorder) keep(now time.Time) (string, error) {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(r.dir, "stall-"+now.UTC().Format("20060102T150405Z")+".trace")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	_, err = r.WriteTo(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	return path, r.prune()
}

func (r *Recorder) prune() error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "stall-") && strings.HasSuffix(e.Name(), ".trace") {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names) // by their time
	for len(names) > filesMax {
		if err := os.Remove(filepath.Join(r.dir, names[0])); err != nil {
			return err
		}
		names = names[1:]
	}
	return nil
}
