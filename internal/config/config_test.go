package config

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/keelson.toml anew")

const minimal = "node = \"a\"\ncluster = \"c1\"\n"

func TestExampleIsTheDocumentedFile(t *testing.T) {
	doc := filepath.Join("..", "..", "docs", "keelson.toml")
	if *update {
		if err := os.WriteFile(doc, Render(Example()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), string(Render(Example()))); diff != "" {
		t.Errorf("docs/keelson.toml is not the example (go test ./internal/config -update writes it):\n%s", diff)
	}
	a, err := Parse("/etc/keelson/keelson.toml", have)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Example(), a); diff != "" {
		t.Errorf("loaded differs from what was rendered:\n%s", diff)
	}
}

// The values in comments are the defaults, and no key is left out of the template.
func TestCommentedKeysAreTheDefaults(t *testing.T) {
	example := Example()
	example.Volumes = []Volume{{Name: "data"}}
	text := regexp.MustCompile(`(?m)^# ([a-z-]+ = )`).ReplaceAll(Render(example), []byte("$1"))
	a, err := Parse("/etc/keelson/keelson.toml", text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(example, a); diff != "" {
		t.Errorf("the commented values are not the defaults:\n%s", diff)
	}
	keys := regexp.MustCompile(`toml:"([^"]+)"`)
	source, err := os.ReadFile("agent.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range keys.FindAllSubmatch(source, -1) {
		if !regexp.MustCompile(`(?m)^(\[?\[` + string(m[1]) + `\]|` + string(m[1]) + ` = )`).Match(text) {
			t.Errorf("the template has no key %q", m[1])
		}
	}
}

func TestRenderedIsLoadedAsTheSame(t *testing.T) {
	a := Example()
	a.State = "/tmp/x \"quoted\" \\ \t ü"
	a.Encryption = Off
	a.NBD.Address, a.NBD.TLS = "127.0.0.1:10809", true
	a.Log = Log{Level: "debug", Format: "json"}
	a.Hooks.Directory = "/etc/keelson/hooks"
	a.Volumes = []Volume{{Name: "data", Mount: "/srv/data", MountOptions: "noatime,discard", ServiceAddress: "192.0.2.10/24", ServiceInterface: "eth0", ServiceName: "data.example.com"}, {Name: "other"}}
	a.Limits.SyncTimeout, a.Limits.QueueBytes, a.Limits.HotExtentsMax = Duration(1500e6), 3<<20, 17
	b, err := Parse("/etc/keelson.toml", Render(a))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Error(diff)
	}
}

func TestRelativePathsAreOfTheFile(t *testing.T) {
	a, err := Parse("/srv/k/keelson.toml", []byte(minimal+"state = \".\"\n[api]\nsocket = \"agent.sock\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if a.State != "/srv/k" || a.API.Socket != "/srv/k/agent.sock" {
		t.Errorf("state %q, socket %q", a.State, a.API.Socket)
	}
}

func TestProblemsNameFileLineKeyAndReason(t *testing.T) {
	long := strings.Repeat("x", 110)
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", minimal + "[limits]\nsync-timeot = \"5s\"\n", `/k.toml:4: limits.sync-timeot: unknown key`},
		{"unknown table", minimal + "[limit]\nsync-timeout = \"5s\"\n", `/k.toml:3: limit: unknown key`},
		{"bad size", minimal + "[limits]\nqueue-bytes = \"64 bananas\"\n", `/k.toml:4: limits.queue-bytes: "64 bananas" is no size`},
		{"bad duration", minimal + "[limits]\nhold-max = 10\n", `/k.toml:4: limits.hold-max: 10ns is not from 100ms to 10m: write it as in "30s"`},
		{"wrong type", minimal + "[nbd]\ntls = \"yes\"\n", `/k.toml:4: nbd.tls: `},
		{"no toml", "node = \n", `/k.toml:1: `},
		{"key twice", minimal + "node = \"b\"\n", `/k.toml:3: `},
		{"no node", "cluster = \"c1\"\n", `/k.toml: node: missing: the name of this server`},
		{"no cluster", "node = \"a\"\n", `/k.toml: cluster: missing`},
		{"bad node", "node = \"A/b\"\ncluster = \"c1\"\n", `/k.toml:1: node: "A/b" is no server name`},
		{"encryption", minimal + "encryption = \"maybe\"\n", `/k.toml:3: encryption: "maybe" is none of ["on" "off"]`},
		{"no port", minimal + "[listen]\naddress = \"10.0.0.1\"\n", `/k.toml:4: listen.address: "10.0.0.1" is no address: write it as HOST:PORT`},
		{"port 0", minimal + "[listen]\naddress = \"10.0.0.1:0\"\n", `/k.toml:4: listen.address: `},
		{"port clash", minimal + "[listen]\naddress = \"10.0.0.1:7\"\n[nbd]\naddress = \"10.0.0.1:7\"\n",
			`/k.toml:6: nbd.address: 10.0.0.1:7 is the address of listen.address already: two cannot listen on one port`},
		{"peers clash", minimal + "[[peer]]\nname = \"b\"\naddress = \"h:1\"\n[[peer]]\nname = \"c\"\naddress = \"h:1\"\n",
			`/k.toml:8: peer[1].address: h:1 is the address of peer b already`},
		{"peer twice", minimal + "[[peer]]\nname = \"b\"\naddress = \"h:1\"\n[[peer]]\nname = \"b\"\naddress = \"h:2\"\n",
			`/k.toml:7: peer[1].name: "b" is listed twice`},
		{"peer itself", minimal + "[[peer]]\nname = \"a\"\naddress = \"h:1\"\n", `/k.toml:4: peer[0].name: "a" is this server itself`},
		{"peer anywhere", minimal + "[[peer]]\nname = \"b\"\naddress = \"0.0.0.0:1\"\n", `/k.toml:5: peer[0].address: 0.0.0.0:1 is no address that can be reached`},
		{"peer without address", minimal + "[[peer]]\nname = \"b\"\n", `/k.toml:3: peer[0].address: "" is no address`},
		{"socket path", minimal + "[api]\nsocket = \"/" + long + "\"\n", `/k.toml:4: api.socket: /` + long + ` has 111 bytes: the path of a unix socket may have 107`},
		{"volume name", minimal + "[[volume]]\nname = \"-x\"\n", `/k.toml:4: volume[0].name: "-x" is no volume name`},
		{"volume twice", minimal + "[[volume]]\nname = \"x\"\n[[volume]]\nname = \"x\"\n", `/k.toml:6: volume[1].name: "x" is listed twice`},
		{"mount options alone", minimal + "[[volume]]\nname = \"x\"\nmount-options = \"ro\"\n", `/k.toml:5: volume[0].mount-options: needs mount`},
		{"mount at root", minimal + "[[volume]]\nname = \"x\"\nmount = \"/../\"\n", `/k.toml:5: volume[0].mount: / is no folder`},
		{"mount twice", minimal + "[[volume]]\nname = \"x\"\nmount = \"/srv/x\"\n[[volume]]\nname = \"y\"\nmount = \"/srv/x/\"\n",
			`/k.toml:8: volume[1].mount: /srv/x is the folder of volume x already`},
		{"service address", minimal + "[[volume]]\nname = \"x\"\nservice-address = \"192.0.2.10\"\nservice-interface = \"eth0\"\n", `/k.toml:5: volume[0].service-address: "192.0.2.10" is no address of a server`},
		{"service interface", minimal + "[[volume]]\nname = \"x\"\nservice-address = \"192.0.2.10/24\"\n", `volume[0].service-interface: "" is no interface`},
		{"service address twice", minimal + "[[volume]]\nname = \"x\"\nservice-address = \"192.0.2.10/24\"\nservice-interface = \"eth0\"\n[[volume]]\nname = \"y\"\nservice-address = \"192.0.2.10/32\"\nservice-interface = \"eth1\"\n",
			`/k.toml:9: volume[1].service-address: 192.0.2.10 is that of volume x already`},
		{"service name", minimal + "[[volume]]\nname = \"x\"\nservice-name = \"*.example.com\"\n", `/k.toml:5: volume[0].service-name: "*.example.com" is no DNS name`},
		{"service name that is an address", minimal + "[[volume]]\nname = \"x\"\nservice-name = \"192.0.2.10\"\n", `/k.toml:5: volume[0].service-name: "192.0.2.10" is no DNS name`},
		{"service name of a server", minimal + "[[volume]]\nname = \"x\"\nservice-name = \"B.Keelson\"\n", `/k.toml:5: volume[0].service-name: "B.Keelson" is a server's name`},
		{"service name twice", minimal + "[[volume]]\nname = \"x\"\nservice-name = \"d.example\"\n[[volume]]\nname = \"y\"\nservice-name = \"D.example\"\n",
			`/k.toml:8: volume[1].service-name: D.example is that of volume x already`},
		{"hook limit", minimal + "[hooks]\nlimit = \"1ms\"\n", `/k.toml:4: hooks.limit: 1ms is not from 100ms to 1h`},
		{"tls without address", minimal + "[nbd]\ntls = true\n", `/k.toml:4: nbd.tls: needs nbd.address`},
		{"dead-after", minimal + "[limits]\nheartbeat = \"4s\"\n", `limits.dead-after: 5s is less than twice the heartbeat (4s)`},
		{"limit too small", minimal + "[limits]\nqueue-bytes = \"1K\"\n", `/k.toml:4: limits.queue-bytes: 1KiB is not from 1MiB to 1TiB`},
		{"count too small", minimal + "[limits]\nhot-extents-max = 1\n", `/k.toml:4: limits.hot-extents-max: 1 is not from 16 to`},
		{"too long", minimal + strings.Repeat("#\n", FileBytesMax/2), `/k.toml: longer than 1048576 bytes`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("/k.toml", []byte(c.text))
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, err := Parse("/k.toml", []byte("encryption = \"x\"\n[limits]\nevents-max = -1\n"))
	var e *Error
	if !errors.As(err, &e) || len(e.Problems) != 4 {
		t.Errorf("got %v", err)
	}
}

func TestLoadLooksForTheCertificates(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keelson.toml")
	text := minimal + "[tls]\nca = \"ca.crt\"\ncert = \"node.crt\"\nkey = \"node.key\"\n"
	for _, name := range []string{"keelson.toml", "ca.crt", "node.crt"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Load(path)
	if want := path + ":6: tls.key: the private key of this server cannot be read: open " + dir + "/node.key: no such file"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "node.key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := Load(path)
	if err != nil || a.TLS.Key != filepath.Join(dir, "node.key") {
		t.Errorf("got %+v, %v", a, err)
	}
	if _, err := Load(filepath.Join(dir, "none.toml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "512": 512, "512B": 512, "10K": 10 << 10, "10k": 10 << 10, "10G": 10 << 30, "10GiB": 10 << 30, "10gib": 10 << 30, "10Gi": 10 << 30,
		"512M": 512 << 20, "1.5G": 3 << 29, "1KB": 1000, "2GB": 2e9, "1T": 1 << 40, "64 MiB": 64 << 20, " 1M ": 1 << 20, "7E": 7 << 60,
	} {
		if got, err := ParseSize(text); got != want || err != nil {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "G", "-1", "1X", "1GiBB", "8E", "9223372036854775808", "1.3", "1..2M", "0x10", "1e3", "NaN", "1GG", "99999999E"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Render(Example()))
	f.Add([]byte(minimal))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := Parse("/k.toml", data)
		if err != nil {
			return
		}
		b, err := Parse("/k.toml", Render(a))
		if err != nil || !bytes.Equal(Render(a), Render(b)) {
			t.Fatalf("rendered and parsed again: %v", err)
		}
	})
}

func FuzzParseSize(f *testing.F) {
	f.Add("10GiB")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			return
		}
		if back, err := ParseSize(Size(n).String()); n < 0 || err != nil || back != n {
			t.Fatalf("%q: %d, back %d, %v", s, n, back, err)
		}
	})
}
