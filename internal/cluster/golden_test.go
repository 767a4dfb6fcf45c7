package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"keelson/internal/vfs"
)

var update = flag.Bool("update", false, "write the golden files anew")

const goldenHash = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// golden makes a store that has something of everything.
func golden(t *testing.T, fsys vfs.FS) *Store {
	s := open(t, fsys, "a")
	must(t, s.SetMember(member("a")))
	m := member("b")
	m.Address, m.Admitted, m.Keys = "[fd00::2]:7401", ByConfig, nil
	must(t, s.SetMember(m))
	must(t, s.RemoveMember("c"))
	must(t, s.SetUser(User{Name: "anna", Role: Administrator, Hash: goldenHash}))
	must(t, s.SetUser(User{Name: "berta", Role: Viewer}))
	must(t, s.RemoveUser("berta"))
	must(t, s.Audit(Line{Kind: WhoLocal, Who: "root", From: "uid 0", What: "Switchover", Object: "volume data", Detail: `{"to":"b"}`, Result: Refused, Rule: "needs-force", Message: "its source is not known here"}))
	must(t, s.AuditMerge([]Line{{Node: "b", Seq: 7, Kind: WhoPage, Who: "anna", What: "ChangeMirror", Result: Done}}))
	return s
}

// Whoever changes these files changes a format that is in use.
func TestGoldenFiles(t *testing.T) {
	mem := vfs.NewMem(1)
	s := golden(t, mem)
	digest := s.Digest()
	for _, name := range []string{documentFile, auditFile} {
		got, err := readAll(mem, dir+"/"+name, 1<<20)
		must(t, err)
		if *update {
			must(t, os.WriteFile("testdata/"+name+".golden", got, 0o644))
		}
		want, err := os.ReadFile("testdata/" + name + ".golden")
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s is written otherwise than its golden file:\n%s", name, got)
		}
	}
	old := vfs.NewMem(2) // and they are read for ever
	must(t, old.MkdirAll(dir))
	for _, name := range []string{documentFile, auditFile} {
		data, err := os.ReadFile("testdata/" + name + ".golden")
		must(t, err)
		must(t, WriteFile(old, dir+"/"+name, data))
	}
	s = open(t, old, "b")
	if s.Digest() != digest || len(s.Members()) != 2 || len(s.Users()) != 1 {
		t.Errorf("read as %s", s.current().text())
	}
	if got := lines(t, s, AuditQuery{}); len(got) != 2 || !strings.Contains(got[1], "Switchover") {
		t.Errorf("read as %q", got)
	}
}

func TestNewerFormatsAreRefused(t *testing.T) {
	for name, data := range map[string]string{
		documentFile: "keelson-cluster 2 0 00000000\n",
		auditFile:    string(frame(auditHead{auditMagic, 2, nil})),
	} {
		mem := vfs.NewMem(1)
		must(t, mem.MkdirAll(dir))
		must(t, WriteFile(mem, dir+"/"+name, []byte(data)))
		_, err := Open(mem, dir, "a", Options{})
		var format *FormatError
		if !errors.As(err, &format) || !strings.Contains(err.Error(), "format is 2") {
			t.Errorf("%s of a newer version: %v", name, err)
		}
		if got, _ := readAll(mem, dir+"/"+name, 1<<20); string(got) != data {
			t.Errorf("%s of a newer version was changed", name)
		}
	}
}

// Every flipped bit of a document is found.
func TestDamagedDocumentIsRefused(t *testing.T) {
	mem := vfs.NewMem(1)
	whole, err := golden(t, mem).Document()
	must(t, err)
	for at := range whole {
		bad := bytes.Clone(whole)
		bad[at] ^= 1 << (at % 8)
		if d, err := decode(bad); err == nil && !bytes.Equal(d.text(), whole[bytes.IndexByte(whole, '\n')+1:]) {
			t.Fatalf("a flipped bit at %d was not found", at)
		}
	}
	if _, err := decode(whole[:len(whole)-1]); err == nil {
		t.Error("a document that is cut off was taken")
	}
}

// What a member may send in place of a document: nothing but a good one is taken, and it is written as it was read.
func FuzzDocument(f *testing.F) {
	whole, err := os.ReadFile("testdata/" + documentFile + ".golden")
	if err != nil {
		f.Fatal(err)
	}
	_, body, _ := bytes.Cut(whole, []byte("\n"))
	f.Add(body)
	f.Add([]byte(`{"members":[],"users":[]}`))
	f.Add([]byte(`{"members":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = decode(body) // as a whole, head line included
		d := new(Document)
		if json.Unmarshal(body, d) != nil || d.check() != nil {
			return
		}
		data, err := d.encode()
		must(t, err)
		again, err := decode(data)
		must(t, err)
		if again.digest() != d.digest() {
			t.Errorf("%s is read as %s", data, again.text())
		}
		if both := merge(d, again); both.digest() != d.digest() {
			t.Errorf("a document merged with itself is another: %s", both.text())
		}
	})
}

func FuzzAudit(f *testing.F) {
	whole, err := os.ReadFile("testdata/" + auditFile + ".golden")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Fuzz(func(t *testing.T, data []byte) {
		n := 0
		_, size, err := readSegment(data, func(l Line) bool {
			n++
			must(t, l.check())
			return true
		})
		if size > int64(len(data)) || err != nil && n > 0 {
			t.Errorf("%d bytes are whole of %d, %d lines, %v", size, len(data), n, err)
		}
	})
}
