package blocktest

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"keelson/internal/block"
)

const answerMax = 30 * time.Second // for a batch

// submitter submits requests and checks how they are completed: exactly once, and with a Flush after completions
// outside of Submit, without which an answer would never leave a frontend.
type submitter struct {
	t    *testing.T
	dev  block.Device
	size int64

	mu    sync.Mutex
	times map[*block.Request]int // completions
	open  int                    // submitted, not completed
	wake  chan struct{}
}

func newSubmitter(t *testing.T, dev block.Device) *submitter {
	return &submitter{t: t, dev: dev, size: dev.Size(), times: map[*block.Request]int{}, wake: make(chan struct{}, 1)}
}

// another returns a submitter on the same device for another goroutine.
func (s *submitter) another() *submitter { return newSubmitter(s.t, s.dev) }

// Complete implements block.Completer.
func (s *submitter) Complete(r *block.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times[r]++; s.times[r] > 1 {
		s.t.Errorf("%s of %d bytes at %d was completed %d times", r.Op, r.Len, r.Off, s.times[r])
		return
	}
	s.open--
}

// Flush implements block.Completer.
func (s *submitter) Flush() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// start submits without waiting.
func (s *submitter) start(batch ...*block.Request) {
	s.mu.Lock()
	for _, r := range batch {
		r.By = s
		s.times[r] = 0
	}
	s.open += len(batch)
	s.mu.Unlock()
	s.dev.Submit(append([]*block.Request(nil), batch...))
	s.Flush()
}

// wait returns when everything started is completed.
func (s *submitter) wait() {
	s.t.Helper()
	limit := time.NewTimer(answerMax)
	defer limit.Stop()
	for {
		s.mu.Lock()
		open := s.open
		s.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-s.wake:
		case <-limit.C:
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.open == 0 {
				s.t.Fatal("completed outside of Submit, but Flush was not called after it")
			}
			s.t.Fatalf("%d requests not completed within %v", s.open, answerMax)
		}
	}
}

// do submits a batch, waits, and fails the test if a request failed.
func (s *submitter) do(batch ...*block.Request) {
	s.t.Helper()
	s.start(batch...)
	s.wait()
	for _, r := range batch {
		if r.Err != nil {
			s.t.Fatalf("%s of %d bytes at %d: %v", r.Op, r.Len, r.Off, r.Err)
		}
	}
}

// read returns n bytes at off.
func (s *submitter) read(off, n int64) []byte {
	s.t.Helper()
	r := &block.Request{Op: block.Read, Off: off, Len: n, Buf: block.NewBuffer(int(n))}
	copy(r.Buf.Bytes, bytes.Repeat([]byte{0xa5}, int(n)))
	s.do(r)
	defer r.Buf.Release()
	return append([]byte(nil), r.Buf.Bytes...)
}

// write is a request to write p.
func write(off int64, p []byte) *block.Request {
	r := &block.Request{Op: block.Write, Off: off, Len: int64(len(p)), Buf: block.NewBuffer(len(p))}
	copy(r.Buf.Bytes, p)
	return r
}

// checkOnce fails the test if something was not completed exactly once.
func (s *submitter) checkOnce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r, n := range s.times {
		if n != 1 {
			s.t.Errorf("%s of %d bytes at %d was completed %d times", r.Op, r.Len, r.Off, n)
		}
	}
}
