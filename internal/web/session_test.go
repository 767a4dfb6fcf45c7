package web

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestSessionFileFormat(t *testing.T) {
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	byKey := map[string]session{
		keyOf("one"): {User: "alice", Epoch: "3", Began: at, Used: at.Add(time.Minute)},
		keyOf("two"): {User: linkUser, Link: true, Began: at, Used: at},
	}
	data, err := encodeSessions(byKey)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "sessions.json")
	if *update {
		if err := os.WriteFile(golden, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(data, want) {
		t.Errorf("%v; the format changed:\n%s", err, data)
	}
	back, err := decodeSessions(want)
	if err != nil || len(back) != 2 || back[keyOf("one")] != byKey[keyOf("one")] {
		t.Errorf("%v, %v", back, err)
	}
	for _, bad := range []string{"", "{}", `{"version":2}`, `{"version":1,"sessions":{"x":{}}}`, `{"version":1,"sessions":{"` + keyOf("A")[:62] + `FF":{}}}`} {
		if _, err := decodeSessions([]byte(bad)); err == nil {
			t.Errorf("%q is read as sessions", bad)
		}
	}
}

func FuzzSessions(f *testing.F) {
	data, _ := os.ReadFile(filepath.Join("testdata", "sessions.json"))
	f.Add(data)
	f.Add([]byte(`{"version":1,"sessions":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		byKey, err := decodeSessions(data)
		if err != nil {
			return
		}
		again, err := encodeSessions(byKey)
		if err != nil {
			return // a time that JSON cannot write
		}
		back, err := decodeSessions(again)
		if err != nil || len(back) != len(byKey) {
			t.Errorf("%d sessions became %d: %v", len(byKey), len(back), err)
		}
	})
}
