package password

import (
	"strings"
	"testing"
)

const good = "correct horse battery"

func TestHashAndCheck(t *testing.T) {
	hash, err := Hash(good)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") || strings.Contains(hash, good) || len(hash) > HashBytesMax {
		t.Errorf("hash %s", hash)
	}
	if other, _ := Hash(good); other == hash {
		t.Error("two hashes of one password are the same: no salt")
	}
	for password, want := range map[string]bool{good: true, good + " ": false, "": false, strings.Repeat("x", bytesMax+1): false} {
		if ok, renew, err := Check(hash, password); ok != want || renew || err != nil {
			t.Errorf("Check(%.30q) is %v, %v, %v", password, ok, renew, err)
		}
	}
	Waste("whatever") // takes its time and does not fail
}

// Hashes of the reference implementation (its test.c): taken, and to be made anew, since their salt is short and one has one pass.
func TestHashesOfTheReferenceImplementation(t *testing.T) {
	for hash, weak := range map[string]bool{
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc": true, // its salt is short
		"$argon2id$v=19$m=65536,t=1,p=1$c29tZXNhbHQ$9qWtwbpyPd3vm1rB1GThgPzZ3/ydHL92zKL+15XZypg": true,
	} {
		if ok, renew, err := Check(hash, "password"); !ok || renew != weak || err != nil {
			t.Errorf("%s: ok %v, renew %v, %v", hash, ok, renew, err)
		}
		if ok, renew, _ := Check(hash, "passwore"); ok || renew {
			t.Errorf("%s: a wrong password was taken, or its hash would be made anew", hash)
		}
	}
}

func TestUnacceptablePasswords(t *testing.T) {
	for _, bad := range []string{"", "short", strings.Repeat("x", bytesMax+1), "with a\nline end", "not utf-8 \xff\xfe at all"} {
		if _, err := Hash(bad); err == nil {
			t.Errorf("%.20q was taken", bad)
		}
	}
}

var badHashes = []string{
	"", "$", "plain", "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ", "$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAA",
	"$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAA", // 4 TiB of memory
	"$argon2id$v=19$m=19456,t=999999,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAA", // for ever
	"$argon2id$v=19$m=19456,t=0,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAA", "$argon2id$v=19$m=19456,t=2,p=0$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAA",
	"$argon2id$v=19$m=19456,t=2,p=1$$", "$argon2id$v=19$m=+19456,t=2,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAA",
	"$argon2id$v=16$m=19456,t=2,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAA",
}

func TestBadHashes(t *testing.T) {
	for _, bad := range badHashes {
		if ok, _, err := Check(bad, good); ok || err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, bad := range badHashes {
		f.Add(bad)
	}
	f.Add(decoy.String())
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parse(text)
		if err != nil {
			return
		}
		if p.String() != text || p.memory > memoryMaxKiB || p.passes > passesMax || p.lanes > lanesMax {
			t.Errorf("%q was read as %s", text, p)
		}
	})
}
