package flight

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// magic is how Go's traces begin.
var magic = []byte("go 1.")

func TestRecordingOnRequestAndAtAStall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "flight")
	r, err := Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	var b bytes.Buffer
	if _, err := r.WriteTo(&b); err != nil || !bytes.HasPrefix(b.Bytes(), magic) {
		t.Fatalf("%d bytes, %v", b.Len(), err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	told, done, looks := make(chan string, 8), make(chan struct{}), 0
	go func() {
		defer close(done)
		r.Watch(ctx, time.Second, func() (string, time.Duration) {
			if looks++; looks > 2 {
				defer cancel() // what comes after a stall is not recorded again at once
			}
			return "volume data", time.Duration(looks) * 700 * time.Millisecond
		}, func(object string, wait time.Duration, file string, err error) {
			if err != nil || object != "volume data" || wait != 1400*time.Millisecond {
				t.Errorf("%s waited %s: %v", object, wait, err)
			}
			told <- file
		})
	}()
	<-done
	if len(told) != 1 {
		t.Fatalf("told of %d stalls", len(told))
	}
	if text, err := os.ReadFile(<-told); err != nil || !bytes.HasPrefix(text, magic) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

func TestOnlyTheNewestAreKept(t *testing.T) {
	dir := t.TempDir()
	r, err := Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range filesMax + 2 {
		if _, err := r.keep(begin.Add(time.Duration(i) * time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != filesMax || entries[0].Name() != "stall-20260101T020000Z.trace" {
		t.Errorf("%v, %v", entries, err)
	}
}
