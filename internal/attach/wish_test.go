package attach

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"keelson/internal/vfs"
)

var update = flag.Bool("update", false, "write the golden file anew")

const golden = "testdata/device.json"

func TestGoldenWish(t *testing.T) {
	w := Wish{Attach: Loop}
	if *update {
		if err := os.WriteFile(golden, EncodeWish(w), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, EncodeWish(w)) {
		t.Errorf("the format changed:\n%s\n%s", text, EncodeWish(w))
	}
	if got, err := DecodeWish(text); err != nil || got != w {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestBadWishes(t *testing.T) {
	for text, why := range map[string]string{
		`{"format":2,"attach":"loop"}`:            "format 2",
		`{"attach":"loop"}`:                       "format 0",
		`{"format":1,"attach":"magic"}`:           "magic",
		`{"format":1,"attach":"loop","x":1}`:      "unknown field",
		`{"format":1,"attach":"loop"} {"more":1}`: "invalid",
		`nonsense`: "invalid",
		``:         "unexpected end",
	} {
		if _, err := DecodeWish([]byte(text)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzWish(f *testing.F) {
	f.Add(EncodeWish(Wish{Attach: Auto}))
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		w, err := DecodeWish(text)
		if err != nil {
			return
		}
		if again, err := DecodeWish(EncodeWish(w)); err != nil || again != w {
			t.Errorf("%+v becomes %+v: %v", w, again, err)
		}
	})
}

// A power cut at any call of a save leaves the old wish or the new one.
func TestSaveWishCrash(t *testing.T) {
	const dir, file = "/d", "/d/device.json"
	for at := 0; ; at++ {
		fs := vfs.NewMem(int64(at))
		if err := errors.Join(fs.MkdirAll(dir), saveWish(fs, file, Wish{Attach: Auto})); err != nil {
			t.Fatal(err)
		}
		calls := 0
		fs.Inject(func(string, string, int64, int) error {
			if calls++; calls > at {
				return errors.New("power cut")
			}
			return nil
		})
		saved := saveWish(fs, file, Wish{Attach: Loop})
		fs.CrashPower()
		w, err := loadWish(fs, file)
		if err != nil || w.Attach != Auto && w.Attach != Loop || saved == nil && w.Attach != Loop {
			t.Fatalf("after a power cut at call %d (%v): %+v, %v", at, saved, w, err)
		}
		if saved == nil {
			if calls < 4 {
				t.Errorf("only %d calls", calls)
			}
			return
		}
	}
}
