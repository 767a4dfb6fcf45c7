package cluster

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"keelson/internal/vfs"
)

// Clients come, change their key and go like servers and users: a removal wins over what did not know of it, and all members
// agree. The golden file is a document that has some; documents without are written as before there were clients.
func TestClients(t *testing.T) {
	key, other := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	mem := vfs.NewMem(1)
	a, b := open(t, mem, "a"), open(t, vfs.NewMem(2), "b")
	before, err := a.Document()
	must(t, err)
	if bytes.Contains(before, []byte("clients")) {
		t.Errorf("a document without clients names them: %s", before)
	}
	must(t, a.SetMember(member("a")))
	must(t, a.SetUser(User{Name: "anna", Role: Viewer}))
	must(t, a.SetClient(Client{Name: "vm", Key: key}))
	must(t, a.SetClient(Client{Name: "gone", Key: other}))
	must(t, a.RemoveClient("gone"))
	must(t, a.RemoveClient("never"))
	must(t, a.SetUser(User{Name: "anna", Role: Operator})) // other changes keep them
	must(t, a.SetMember(member("a")))
	must(t, a.RemoveMember("c"))
	must(t, a.RemoveUser("anna"))
	if c, ok := a.ClientKey(key); !ok || c.Name != "vm" || len(a.Clients()) != 1 {
		t.Errorf("%+v", a.Clients())
	}
	if c, ok := a.ClientKey(other); ok {
		t.Errorf("a removed client is known by its key: %+v", c)
	}
	got, err := readAll(mem, dir+"/"+documentFile, 1<<20)
	must(t, err)
	const golden = "testdata/document-clients.golden"
	if *update {
		must(t, os.WriteFile(golden, got, 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("the document is written otherwise than %s:\n%s", golden, got)
	}

	meet(t, a, b)
	must(t, a.SetClient(Client{Name: "vm", Key: other})) // does not know of
	must(t, b.RemoveClient("vm"))                        // this
	meet(t, a, b)
	if len(a.Clients())+len(b.Clients()) != 0 || a.Digest() != b.Digest() {
		t.Errorf("%+v and %+v", a.Clients(), b.Clients())
	}
	must(t, b.SetClient(Client{Name: "vm", Key: key}))
	meet(t, a, b)
	if _, ok := a.ClientKey(key); !ok {
		t.Error("a client that was admitted again is not known elsewhere")
	}
	digest := a.Digest()
	for _, bad := range []Client{{Name: "../x", Key: key}, {Name: "Vm", Key: key}, {Name: "", Key: key}, {Name: "x", Key: "00"}, {Name: "x", Key: strings.ToUpper(key)}} {
		if a.SetClient(bad) == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if a.Digest() != digest {
		t.Error("what was refused changed the document")
	}
}
