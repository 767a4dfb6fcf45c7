// Package demo runs three agents as processes of their own on 127.0.0.1 with one volume, and ends them again.
//
// DIR/demo.json says that a directory is a demo and how it was made; DIR/NODE has all files of one agent. Processes are
// only ever signalled after /proc shows that they are the agent of that directory.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"keelson/internal/api"
	"keelson/internal/config"
)

// Nodes are the names of the demo's servers; the first is the source of a new volume.
var Nodes = []string{"a", "b", "c"}

// Names and limits of a demo.
const (
	Volume       = "data"
	dirBytesMax  = 60 // paths of sockets are short in the kernel
	recordFile   = "demo.json"
	lockFile     = "demo.lock"
	startTimeMax = 20 * time.Second // for all agents to answer
	startsMax    = 3                // with other ports, if others took them
	pollEvery    = 50 * time.Millisecond
)

// Options say what a demo is to be.
type Options struct {
	Dir        string // made if it does not exist
	SizeBytes  int64
	Mode       string // sync | async
	Encryption string // on | off
	Given      bool   // size, mode or encryption were asked for: a demo that was made otherwise is refused
	Program    string // the binary whose agent command is run
}

// Demo is one that runs.
type Demo struct {
	Dir    string
	Again  bool        // it was made before and has been started again
	Status *api.Status // as the source sees it
	agents []*process
}

// record is the content of DIR/demo.json.
type record struct {
	Version    int    `json:"version"`
	SizeBytes  int64  `json:"size_bytes"`
	Mode       string `json:"mode"`
	Encryption string `json:"encryption"`
	Started    []int  `json:"started"` // process ids, also those that may not have written agent.pid yet
}

// Socket is the control socket of a node's agent.
func Socket(dir, node string) string { return filepath.Join(dir, node, "agent.sock") }

// Config is the configuration of a node's agent.
func Config(dir, node string) string { return filepath.Join(dir, node, "keelson.toml") }

// Image is the copy of the volume on a node.
func Image(dir, node string) string { return filepath.Join(dir, node, "data.img") }

// CheckDir makes the path absolute and refuses one that is too long.
func CheckDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", api.Errorf(api.Failed, "demo", "%v", err)
	}
	if len(dir) > dirBytesMax {
		return "", api.Errorf(api.Usage, "demo", "the path %s has %d bytes, more than %d: paths of sockets are short in the kernel", dir, len(dir), dirBytesMax).
			WithNext("choose a shorter one: --dir DIR")
	}
	return dir, nil
}

// Start makes a demo, or starts one again that was stopped, and returns when its mirrors are Mirroring. progress gets a
// line now and then. If it fails the agents are ended, except with Unfinished: then they run, and the Demo is not nil.
func Start(ctx context.Context, o Options, progress func(string)) (*Demo, error) {
	dir, err := CheckDir(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, failed(dir, err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec, again, err := prepare(dir, o)
	if err != nil {
		return nil, err
	}
	d := &Demo{Dir: dir, Again: again}
	if err := d.launch(ctx, o.Program, rec, progress); err != nil {
		return nil, errors.Join(err, d.end())
	}
	if err := d.settle(ctx, rec, progress); err != nil {
		if api.AsError(err).Code == api.Unfinished && !errors.Is(ctx.Err(), context.Canceled) {
			return d, err
		}
		return nil, errors.Join(err, d.end())
	}
	return d, nil
}

// prepare makes the files of a new demo, or finds those of one that was stopped.
func prepare(dir string, o Options) (rec *record, again bool, err error) {
	rec, err = load(dir)
	if err == nil {
		return rec, true, checkStopped(dir, o, rec)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, false, failed(dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, false, failed(dir, err)
	}
	for _, e := range entries {
		if e.Name() != lockFile {
			return nil, false, api.Refusal("directory-not-empty", "demo "+dir, fmt.Sprintf("the directory holds %s, and no demo", e.Name()), "choose an empty or a new one: --dir DIR")
		}
	}
	rec = &record{Version: 1, SizeBytes: o.SizeBytes, Mode: o.Mode, Encryption: o.Encryption}
	if err := makeFiles(dir, rec); err != nil {
		return nil, false, failed(dir, err)
	}
	return rec, false, nil
}

// checkStopped refuses to start a demo again that runs or is another one than was asked for.
func checkStopped(dir string, o Options, rec *record) error {
	if running := Running(dir); len(running) > 0 {
		return api.Refusal("demo-running", "demo "+dir, fmt.Sprintf("it runs already: %d of its agents", len(running)), "end it: keelson demo stop --dir "+dir)
	}
	if o.Given && (o.SizeBytes != rec.SizeBytes || o.Mode != rec.Mode || o.Encryption != rec.Encryption) {
		return api.Refusal("demo-differs", "demo "+dir, fmt.Sprintf("it was made with --size %s --mode %s --encryption %s", config.Size(rec.SizeBytes), rec.Mode, rec.Encryption),
			"leave these out to start it again, choose another --dir, or remove it: rm -r "+dir)
	}
	return nil
}

func failed(dir string, err error) error {
	return api.Errorf(api.Failed, "demo "+dir, "%v", err)
}

// load reads DIR/demo.json.
func load(dir string) (*record, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return nil, err
	}
	rec := new(record)
	if err := json.Unmarshal(data, rec); err != nil {
		return nil, fmt.Errorf("%s: %w", recordFile, err)
	}
	if rec.Version != 1 {
		return nil, fmt.Errorf("%s has version %d, and this program knows 1", recordFile, rec.Version)
	}
	return rec, nil
}

// save writes DIR/demo.json as a whole.
func (rec *record) save(dir string) error {
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, recordFile)
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// lock keeps a second start or stop out of the directory.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, failed(dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // it was only to be locked
		return nil, api.Refusal("demo-busy", "demo "+dir, "another command is starting or stopping it", "wait for that to end")
	}
	return func() { _ = f.Close() }, nil // closing unlocks
}
