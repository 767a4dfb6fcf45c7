package peer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson/internal/wire"
)

func TestControl(t *testing.T) {
	s := listen(t, "b", Handlers{Control: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		fmt.Fprintf(w, "%s %s says %s", NodeOf(r), r.URL.Path, body)
	})}, Options{})
	client := HTTPClient(identity(t, "a"), "b", s.Addr().String(), Options{})
	defer client.CloseIdleConnections()
	for range 3 {
		if got := post(t, client, "hello"); got != "a /state says hello" {
			t.Errorf("got %q", got)
		}
	}
	if got := post(t, client, strings.Repeat("x", controlBodyBytesMax+1)); !strings.Contains(got, "too large") {
		t.Errorf("got %.80q", got)
	}
	wrong := HTTPClient(identity(t, "a"), "c", s.Addr().String(), Options{})
	defer wrong.CloseIdleConnections()
	_, err := wrong.Get("https://c/state")
	wantError(t, err, RuleNode, `it is node "b", not "c"`)
}

func post(t *testing.T, client *http.Client, text string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(within(t, 20*time.Second), "POST", "https://b/state", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestCloseWaitsForRequests: a request that is being answered sees its context end, and Close waits for it.
func TestCloseWaitsForRequests(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	s := listen(t, "b", Handlers{Control: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(ended)
	})}, Options{})
	client := HTTPClient(identity(t, "a"), "b", s.Addr().String(), Options{})
	defer client.CloseIdleConnections()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		if answer, err := client.Get("https://b/wait"); err == nil {
			answer.Body.Close()
		}
	}()
	<-began
	s.Close()
	select {
	case <-ended:
	default:
		t.Error("Close came back before the request ended")
	}
	<-asked
}

// TestControlConnectionsAreCounted: they come and go, and what is gone makes room.
func TestControlConnectionsAreCounted(t *testing.T) {
	s := listen(t, "b", Handlers{}, Options{})
	client := HTTPClient(identity(t, "a"), "b", s.Addr().String(), Options{})
	post(t, client, "")
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.conns
	}
	if n := count(); n != 1 {
		t.Errorf("%d connections", n)
	}
	client.CloseIdleConnections()
	for count() != 0 {
		time.Sleep(time.Millisecond) // until the server saw it
	}
	if r, _ := http.NewRequest("GET", "/", nil); NodeOf(r) != "" {
		t.Error("a request without certificate has a node")
	}
}

func TestCertificateFiles(t *testing.T) {
	dir := t.TempDir()
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	again, err := LoadCA(dir)
	if err != nil || again.Cluster != ca.Cluster || !bytes.Equal(again.PEM(), ca.PEM()) {
		t.Fatalf("%v, %v", again, err)
	}
	if err := again.IssueTo(dir, "node-1.rack_2"); err != nil {
		t.Fatal(err)
	}
	id, err := LoadIdentity(dir)
	if err != nil || id.Node != "node-1.rack_2" || id.Cluster != ca.Cluster || len(id.Incarnation) != 32 {
		t.Fatalf("%+v, %v", id, err)
	}
	for _, file := range []string{KeyFile, CAKeyFile} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
	if twice, err := LoadIdentity(dir); err != nil || twice.Incarnation == id.Incarnation {
		t.Errorf("the incarnation is the same: %v", err)
	}
	for _, name := range []string{"", "-a", "a-", "A", "a b", "a/b", "a..b", strings.Repeat("a", 64)} {
		if _, _, err := ca.Issue(name); err == nil || !strings.Contains(err.Error(), "lower-case letters") {
			t.Errorf("node %q: %v", name, err)
		}
	}
	foreign, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, CAFile), foreign.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(dir); err == nil || !strings.Contains(err.Error(), "is not of this cluster") {
		t.Errorf("another CA's file: %v", err)
	}
	if _, err := LoadIdentity(t.TempDir()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "keelson node join") {
		t.Errorf("no files: %v", err)
	}
	if _, err := LoadCA(dir); err == nil || !strings.Contains(err.Error(), "do not belong together") {
		t.Errorf("another CA's key: %v", err)
	}
}

// TestOnlyOurCertificatesReachControl (guarantee 10).
func TestOnlyOurCertificatesReachControl(t *testing.T) {
	foreign, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	s := listen(t, "b", Handlers{
		Control: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was let in") }),
		Stream:  func(*Conn, wire.Hello) { t.Error("it was let in") },
	}, Options{})
	id := mustIdentity(t, foreign, "a")
	id.CA = identity(t, "a").CA
	client := HTTPClient(id, "b", s.Addr().String(), Options{})
	defer client.CloseIdleConnections()
	if answer, err := client.Get("https://b/state"); err == nil {
		answer.Body.Close()
		t.Error("it was answered")
	}
}
