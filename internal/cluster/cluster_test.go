package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"keelson/internal/password"
	"keelson/internal/vfs"
)

func must(t interface {
	Helper()
	Fatal(...any)
}, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const dir = "/state/cluster"

// ticking is a clock that moves a second at each look.
func ticking() func() time.Time {
	now := time.Date(2026, 11, 25, 18, 0, 0, 0, time.UTC)
	return func() time.Time { now = now.Add(time.Second); return now }
}

func open(t *testing.T, fsys vfs.FS, self string) *Store {
	t.Helper()
	s, err := Open(fsys, dir, self, Options{Now: ticking()})
	must(t, err)
	t.Cleanup(func() { _ = s.Close() }) // after a crash there is nothing to close
	return s
}

func member(name string) Member {
	return Member{Name: name, Address: "10.0.0.1:7401", Keys: []string{strings.Repeat("ab", 32)}, Admitted: ByInvite}
}

// meet makes both stores the same, as two members that exchange documents.
func meet(t interface {
	Helper()
	Fatal(...any)
}, a, b *Store) {
	t.Helper()
	doc, err := a.Document()
	must(t, err)
	_, err = b.Merge(doc)
	must(t, err)
	doc, err = b.Document()
	must(t, err)
	_, err = a.Merge(doc)
	must(t, err)
}

// What one member says is what another then has, also after a restart.
func TestDocumentIsOnEveryMember(t *testing.T) {
	a, fsB := open(t, vfs.NewMem(1), "a"), vfs.NewMem(2)
	b := open(t, fsB, "b")
	hash, err := password.Hash("correct horse battery")
	must(t, err)
	must(t, a.SetMember(member("c")))
	must(t, b.SetUser(User{Name: "anna", Role: Operator, Hash: hash}))
	changed := b.Changed()
	meet(t, a, b)
	select {
	case <-changed:
	default:
		t.Error("nobody was told of the change")
	}
	if a.Digest() != b.Digest() {
		t.Error("members that met have different documents")
	}
	must(t, b.Close())
	b = open(t, fsB, "b")
	if m := b.Members(); len(m) != 1 || m[0].Name != "c" || m[0].Address != "10.0.0.1:7401" || len(m[0].Keys) != 1 {
		t.Errorf("members of b after a restart: %+v", m)
	}
	u, ok := a.User("anna")
	if !ok || u.Role != Operator || u.By != "b" {
		t.Errorf("user at a: %+v", u)
	}
	if ok, _, err := password.Check(u.Hash, "correct horse battery"); !ok || err != nil {
		t.Errorf("password at a: %v, %v", ok, err)
	}
	doc, err := a.Document()
	must(t, err)
	if news, err := b.Merge(doc); news || err != nil {
		t.Errorf("the same document is news: %v, %v", news, err)
	}
}

// A removal wins over changes that did not know of it, however many, and an invitation after it over the removal.
func TestRemovalWins(t *testing.T) {
	a, b := open(t, vfs.NewMem(1), "a"), open(t, vfs.NewMem(2), "b")
	must(t, a.SetMember(member("c")))
	must(t, a.SetUser(User{Name: "anna", Role: Viewer}))
	meet(t, a, b)
	must(t, a.RemoveMember("c"))
	must(t, a.RemoveUser("anna"))
	for range 5 {
		must(t, b.SetMember(member("c")))
		must(t, b.SetUser(User{Name: "anna", Role: Administrator}))
	}
	meet(t, a, b)
	if m, there := b.Member("c"); !there || !m.Removed || len(b.Members()) != 0 {
		t.Errorf("the removed server is %+v", m)
	}
	if u, there := b.User("anna"); there || len(b.Users()) != 0 {
		t.Errorf("the removed user is %+v", u)
	}
	must(t, b.SetMember(member("c")))
	must(t, b.SetUser(User{Name: "anna", Role: Viewer}))
	must(t, a.RemoveMember("c")) // is removed already: changes nothing
	meet(t, a, b)
	if m, _ := a.Member("c"); m.Removed || len(a.Users()) != 1 {
		t.Errorf("made again: %+v, %v", m, a.Users())
	}
	must(t, a.RemoveMember("never-seen"))
	if m, there := a.Member("never-seen"); !there || !m.Removed {
		t.Error("the removal of a server that was not in the document is not noted")
	}
}

// Sessions that began before a change of password or role, or before a removal, are over by their number.
func TestLoginsEndSessions(t *testing.T) {
	s := open(t, vfs.NewMem(1), "a")
	hash, err := password.Hash("correct horse battery")
	must(t, err)
	last := uint64(0)
	for i, change := range []func() error{
		func() error { return s.SetUser(User{Name: "anna", Role: Viewer, Hash: hash}) },
		func() error { return s.SetUser(User{Name: "anna", Role: Operator, Hash: hash}) },
		func() error { return s.SetUser(User{Name: "anna", Role: Operator}) },
		func() error { return errors.Join(s.RemoveUser("anna"), s.SetUser(User{Name: "anna", Role: Operator})) },
	} {
		must(t, change())
		u, _ := s.User("anna")
		if u.Logins <= last {
			t.Errorf("change %d: logins is %d after %d", i, u.Logins, last)
		}
		last = u.Logins
	}
	must(t, s.SetUser(User{Name: "anna", Role: Operator}))
	if u, _ := s.User("anna"); u.Logins != last {
		t.Error("a change of nothing ended sessions")
	}
}

// Whatever members do and in whatever order they meet: once all have met they have the same, and meeting in another
// order would have led to that too.
func TestDocumentsConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stores []*Store
		for i, name := range []string{"a", "b", "c"} {
			s, err := Open(vfs.NewMem(int64(i)), dir, name, Options{Now: ticking()})
			must(t, err)
			stores = append(stores, s)
		}
		pick := func(label string) *Store { return stores[rapid.IntRange(0, 2).Draw(t, label)] }
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "name")
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				must(t, pick("at").SetMember(member(name)))
			case 1:
				must(t, pick("at").RemoveMember(name))
			case 2:
				must(t, pick("at").SetUser(User{Name: name, Role: rapid.SampledFrom([]string{Viewer, Operator}).Draw(t, "role")}))
			case 3:
				must(t, pick("at").RemoveUser(name))
			case 4:
				meet(t, pick("one"), pick("other"))
			}
		}
		docs := [3]*Document{stores[0].current(), stores[1].current(), stores[2].current()}
		want := merge(merge(docs[0], docs[1]), docs[2]).digest()
		for _, order := range [][3]int{{0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
			if got := merge(docs[order[0]], merge(docs[order[1]], docs[order[2]])); got.digest() != want || got.check() != nil {
				t.Fatalf("order %v leads elsewhere (%v)", order, got.check())
			}
		}
	})
}

// At whichever call the file system fails or the power goes, what was answered for is there at the next start, and what
// is there is whole.
func TestStoreCrashAtEveryCall(t *testing.T) {
	for call := 1; ; call++ {
		ended := false
		for k, kind := range []struct{ power, torn bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
			mem := vfs.NewMem(int64(call<<2 + k))
			calls := 0
			mem.Inject(func(string, string, int64, int) error {
				if calls++; calls < call {
					return nil
				}
				if calls == call && kind.torn {
					return fmt.Errorf("%w: %w", vfs.ErrCrashed, vfs.ErrTorn)
				}
				return vfs.ErrCrashed
			})
			users, lines := liveUntil(t, mem)
			ended = calls < call
			if kind.power {
				mem.CrashPower()
			} else {
				mem.CrashProcess()
			}
			s, err := Open(mem, dir, "a", Options{Now: ticking()})
			if err != nil {
				t.Fatalf("call %d, %+v: %v", call, kind, err)
			}
			kept, err := s.AuditQuery(AuditQuery{})
			must(t, err)
			if n := len(s.Users()); n < users || n > users+1 {
				t.Fatalf("call %d, %+v: %d users, %d were answered for", call, kind, n, users)
			}
			if n := len(kept); n < lines || n > lines+3 {
				t.Fatalf("call %d, %+v: %d lines, %d were answered for", call, kind, n, lines)
			}
			must(t, s.Audit(Line{What: "again", Result: Done}))
			must(t, s.Close())
		}
		if ended {
			return
		}
	}
}

// liveUntil makes users and lines until something fails, and returns how many were answered for.
func liveUntil(t *testing.T, mem *vfs.Mem) (users, lines int) {
	s, err := Open(mem, dir, "a", Options{Now: ticking()})
	if err != nil {
		return 0, 0
	}
	for i := range 4 {
		if s.SetUser(User{Name: fmt.Sprintf("u%d", i), Role: Viewer}) != nil {
			return users, lines
		}
		users++
		if s.Audit(Line{What: "SetUser", Object: fmt.Sprintf("user u%d", i), Result: Done}) != nil {
			return users, lines
		}
		lines++
		if i == 2 && s.audit.begin() != nil { // a new segment
			return users, lines
		}
		batch := []Line{}
		for n := range 3 {
			batch = append(batch, Line{Node: "b", Seq: uint64(3*i + n + 1), Time: time.Unix(0, 0).UTC(), What: strings.Repeat("x", 400), Result: Done})
		}
		if s.AuditMerge(batch) != nil {
			return users, lines
		}
		lines += len(batch)
	}
	must(t, s.Close())
	return users, lines
}

// What may not be in a document changes nothing, here and at another member.
func TestWrongEntriesAreRefused(t *testing.T) {
	s := open(t, vfs.NewMem(1), "a")
	before := s.Digest()
	for name, try := range map[string]func() error{
		"a name with a slash":     func() error { return s.SetMember(member("../x")) },
		"no address":              func() error { m := member("b"); m.Address = ""; return s.SetMember(m) },
		"an address for any":      func() error { m := member("b"); m.Address = "0.0.0.0:7401"; return s.SetMember(m) },
		"a key that is none":      func() error { m := member("b"); m.Keys = []string{"zz"}; return s.SetMember(m) },
		"too many keys":           func() error { m := member("b"); m.Keys = make([]string, KeysMax+1); return s.SetMember(m) },
		"admitted by nobody":      func() error { m := member("b"); m.Admitted = ""; return s.SetMember(m) },
		"a user without a name":   func() error { return s.SetUser(User{Role: Viewer}) },
		"a role that is none":     func() error { return s.SetUser(User{Name: "anna", Role: "root"}) },
		"a password in the clear": func() error { return s.SetUser(User{Name: "anna", Role: Viewer, Hash: "secret"}) },
	} {
		if err := try(); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if s.Digest() != before {
		t.Error("what was refused changed the document")
	}
}

func TestDocumentIsBounded(t *testing.T) {
	d := &Document{}
	for i := range UsersMax {
		d.Users = append(d.Users, User{Name: fmt.Sprintf("u%04d", i), Role: Viewer, Stamp: Stamp{Epoch: 1, Counter: 1, By: "a"}})
	}
	data, err := d.encode()
	must(t, err)
	s := open(t, vfs.NewMem(1), "a")
	_, err = s.Merge(data)
	must(t, err)
	if err := s.SetUser(User{Name: "one-more", Role: Viewer}); err == nil || !strings.Contains(err.Error(), "1024") {
		t.Errorf("one user more than there may be: %v", err)
	}
	must(t, s.RemoveUser("u0000"))
	must(t, s.SetUser(User{Name: "u0000", Role: Viewer})) // its place is free for the same name
}
