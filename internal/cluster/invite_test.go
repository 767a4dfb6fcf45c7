package cluster

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"keelson/internal/vfs"
)

func candidate(name, key string) Member {
	return Member{Name: name, Address: "10.0.0.4:7401", Keys: []string{strings.Repeat(key, 32)}}
}

// A token admits one server, once, in its time, also after restarts; the server that has the answer lost may ask again.
func TestTokenAdmitsOnce(t *testing.T) {
	mem := vfs.NewMem(1)
	now := time.Date(2026, 11, 25, 18, 0, 0, 0, time.UTC)
	start := func() *Store {
		s, err := Open(mem, dir, "a", Options{Now: func() time.Time { return now }})
		must(t, err)
		return s
	}
	s := start()
	secret, ends, err := s.Invite("", time.Hour)
	must(t, err)
	named, _, err := s.Invite("e", time.Hour)
	must(t, err)
	if want := now.Add(time.Hour); !ends.Equal(want) {
		t.Errorf("it ends at %v, not %v", ends, want)
	}
	text, err := readAll(mem, dir+"/"+invitesFile, 1<<20)
	must(t, err)
	if bytes.Contains(text, secret[:]) {
		t.Error("the secret is on the disk")
	}
	try := func(secret [16]byte, m Member, want error) {
		t.Helper()
		if known, err := s.Redeem(secret, m); !errors.Is(err, want) || known == (want == ErrTokenUnknown) {
			t.Errorf("%s: known %v, %v, want %v", m.Name, known, err, want)
		}
	}
	wrong := secret
	wrong[15] ^= 1
	try(wrong, candidate("d", "dd"), ErrTokenUnknown)
	try(named, candidate("d", "dd"), ErrTokenName)
	must(t, s.SetMember(member("b")))
	try(secret, candidate("b", "dd"), ErrMember)
	try(secret, candidate("d", "dd"), nil)
	must(t, s.Close())
	s = start()
	try(secret, candidate("d", "dd"), nil) // its answer was lost
	try(secret, candidate("d", "ee"), ErrTokenUsed)
	try(secret, candidate("f", "ee"), ErrTokenUsed)
	must(t, s.RemoveMember("d"))
	try(secret, candidate("d", "dd"), ErrTokenUsed) // not a way back
	now = now.Add(2 * time.Hour)
	try(named, candidate("e", "ee"), ErrTokenExpired)
	if m := s.Members(); len(m) != 1 || m[0].Name != "b" {
		t.Errorf("members %+v", m)
	}
	if u, _, err := s.Invite("", time.Hour); err != nil || u == secret { // those that ended are forgotten
		t.Error(err)
	}
	try(named, candidate("e", "ee"), ErrTokenUnknown)
}

func TestInvitationsAreBounded(t *testing.T) {
	s := open(t, vfs.NewMem(1), "a")
	for range invitesMax {
		_, _, err := s.Invite("", time.Hour)
		must(t, err)
	}
	if _, _, err := s.Invite("", time.Hour); !errors.Is(err, errTooMany) {
		t.Errorf("one more than %d: %v", invitesMax, err)
	}
	if _, _, err := s.Invite("../x", time.Hour); err == nil {
		t.Error("a name that is none was invited")
	}
}

// A disk that fails at any call leaves a token that was not used, or one whose server is admitted.
func TestRedeemWithDiskErrors(t *testing.T) {
	for call := 1; ; call++ {
		mem := vfs.NewMem(int64(call))
		s := open(t, mem, "a")
		secret, _, err := s.Invite("", time.Hour)
		must(t, err)
		calls := 0
		mem.Inject(func(string, string, int64, int) error {
			if calls++; calls >= call {
				return vfs.ErrCrashed
			}
			return nil
		})
		_, err = s.Redeem(secret, candidate("d", "dd"))
		if err == nil {
			if calls >= call {
				t.Errorf("call %d failed and nobody was told", call)
			}
			return
		}
		mem.CrashPower()
		s = open(t, mem, "a")
		_, other := s.Redeem(secret, candidate("d", "ee"))
		_, same := s.Redeem(secret, candidate("d", "dd"))
		if (other == nil) == (same == nil) {
			t.Fatalf("call %d: the token admits another: %v, the same: %v", call, other, same)
		}
	}
}

func goldenToken() *Token {
	t := &Token{Ends: time.Unix(1795629607, 0).UTC(), Address: "10.0.0.1:7401", Name: "d"}
	for i := range t.Secret {
		t.Secret[i] = byte(i)
	}
	for i := range t.CA {
		t.CA[i], t.Key[i] = byte(0xa0+i), byte(0xc0+i)
	}
	return t
}

func TestToken(t *testing.T) {
	want := goldenToken()
	text := want.String()
	if *update {
		must(t, os.WriteFile("testdata/token.golden", []byte(text+"\n"), 0o644))
	}
	golden, err := os.ReadFile("testdata/token.golden")
	must(t, err)
	if text+"\n" != string(golden) {
		t.Errorf("written as %s", text)
	}
	got, err := ParseToken(strings.TrimSpace(string(golden)))
	must(t, err)
	if *got != *want {
		t.Errorf("read as %+v", got)
	}
	for i := range text { // none that was copied wrongly is taken for another
		bad := []byte(text)
		bad[i] ^= 1
		if other, err := ParseToken(string(bad)); err == nil && *other != *want {
			t.Errorf("%s was taken", bad)
		}
		if _, err := ParseToken(text[:i]); err == nil {
			t.Errorf("%s was taken", text[:i])
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add(goldenToken().String())
	f.Add(tokenPrefix)
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err == nil && token.String() != text {
			t.Errorf("%q was read as %s", text, token)
		}
	})
}

func FuzzInvites(f *testing.F) {
	f.Add(seal(invitesMagic, invitesVersion, text(invites{Invites: []invite{{Hash: strings.Repeat("ab", 32), Name: "d", Used: "x"}}})))
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := decodeInvites(data)
		if err == nil && i.check() != nil {
			t.Error("wrong invitations were taken")
		}
	})
}

// Whoever changes this file changes a format that is in use.
func TestInvitesGolden(t *testing.T) {
	i := &invites{Invites: []invite{
		{Hash: strings.Repeat("ab", 32), Name: "d", Ends: time.Unix(1795629607, 0).UTC()},
		{Hash: strings.Repeat("cd", 32), Ends: time.Unix(1795629608, 0).UTC(), Used: strings.Repeat("ef", 32)},
	}}
	got := seal(invitesMagic, invitesVersion, append(text(i), '\n'))
	if *update {
		must(t, os.WriteFile("testdata/invites.golden", got, 0o644))
	}
	want, err := os.ReadFile("testdata/invites.golden")
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("written as %s", got)
	}
	if read, err := decodeInvites(want); err != nil || len(read.Invites) != 2 || read.Invites[1] != i.Invites[1] {
		t.Errorf("read as %+v, %v", read, err)
	}
	if _, err := decodeInvites([]byte("keelson-invites 2 0 00000000\n")); err == nil || !strings.Contains(err.Error(), "format is 2") {
		t.Errorf("a newer format: %v", err)
	}
}
