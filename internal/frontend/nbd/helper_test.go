package nbd_test

import (
	"testing"
	"time"
)

// waitFor polls a condition of another process or goroutine.
func waitFor(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	limit := time.After(10 * time.Second)
	for tick := time.NewTicker(5 * time.Millisecond); !ok(); {
		select {
		case <-tick.C:
		case <-limit:
			tb.Fatalf("waited 10 s for %s", what)
		}
	}
}
