package node

import (
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/api"
)

func TestWhoMayUseTheAgent(t *testing.T) {
	for name, test := range map[string]struct {
		uid, own, gid int
		groups        []uint32
		want          bool
	}{
		"root":                            {0, 0, -1, nil, true},
		"the agent's own user":            {1000, 1000, -1, nil, true},
		"another user":                    {1001, 0, -1, []uint32{1001}, false},
		"a member of the group":           {1001, 0, 77, []uint32{1001, 77}, true},
		"a member of others":              {1001, 0, 77, []uint32{1001, 78}, false},
		"a member of group 0 without one": {1001, 0, -1, []uint32{0}, false},
	} {
		if got := mayUse(test.uid, test.own, test.gid, test.groups); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The socket is for the group that the machine has, and its connections are known by name; what is in its way and is no
// socket stays.
func TestLocalSocket(t *testing.T) {
	n := idle(t)
	gid := os.Getgid()
	group, err := user.LookupGroupId(strconv.Itoa(gid))
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{group.Name: 0o660, "no-such-group": 0o600, "": 0o600} {
		path := filepath.Join(n.cfg.State, "s"+name)
		l, err := n.listenLocal(path, name)
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != mode || st.Sys().(*syscall.Stat_t).Gid != uint32(gid) {
			t.Errorf("group %q: %v, %v", name, st.Mode(), err)
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		who := api.CallerOf(localContext(t.Context(), got))
		me, err := user.Current()
		if err != nil || who != (api.Caller{Kind: api.CallerLocal, Name: me.Username, From: "uid " + me.Uid}) {
			t.Errorf("the caller is %+v, %v", who, err)
		}
		for _, c := range []interface{ Close() error }{c, got, l} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	path := filepath.Join(n.cfg.State, "file")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.listenLocal(path, ""); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "precious" {
		t.Error("a file that was in the way is gone")
	}
}
