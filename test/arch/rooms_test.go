package arch

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// Arrows point down only.
func TestRooms(t *testing.T) {
	for _, f := range sources(t) {
		from := roomOf(f.pkg)
		if from == "" {
			t.Errorf("%s: its room is not in the table of test/arch/rooms.go", f.path)
			continue
		}
		if f.test {
			continue // a test may build its room's surroundings
		}
		for _, path := range f.imports {
			pkg, ours := strings.CutPrefix(path, module+"/")
			if !ours {
				continue
			}
			if to := roomOf(pkg); to != from && !slices.Contains(entrances[from], to) {
				t.Errorf("%s: %s may not enter %s (test/arch/rooms.go)", f.path, from, pkg)
			}
		}
	}
}

// The table itself has no circle: whoever can be reached from a room cannot reach it.
func TestRoomsHaveNoCircle(t *testing.T) {
	const open, closed = 1, 2
	state := map[string]int{}
	var visit func(room string, way []string)
	visit = func(room string, way []string) {
		switch state[room] {
		case open:
			t.Fatalf("circle: %s", strings.Join(append(way, room), " -> "))
		case closed:
			return
		}
		state[room] = open
		for _, next := range entrances[room] {
			visit(next, append(way, room))
		}
		state[room] = closed
	}
	for room := range entrances {
		visit(room, nil)
	}
}

// The pure rooms know no clock, disk, network, lock, goroutine or chance, so that a history of events replays exactly.
func TestPureRooms(t *testing.T) {
	for _, f := range sources(t) {
		if f.test || !slices.Contains(pure, roomOf(f.pkg)) {
			continue
		}
		for _, path := range f.imports {
			for _, bad := range impurePackages {
				if below(path, bad) {
					t.Errorf("%s: the pure room %s imports %s", f.path, f.pkg, path)
				}
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: a pure room starts a goroutine", f.path)
			case *ast.SelectStmt:
				t.Errorf("%s: a pure room waits on channels", f.path)
			case *ast.SelectorExpr:
				if pkg, ok := n.X.(*ast.Ident); ok && pkg.Name == "time" && slices.Contains(impureTime, n.Sel.Name) {
					t.Errorf("%s: a pure room calls time.%s; time arrives in events", f.path, n.Sel.Name)
				}
			}
			return true
		})
	}
}

// A volume and what is below it know nothing of sockets.
func TestNoSocketsBelowPeer(t *testing.T) {
	for _, f := range sources(t) {
		if f.test || !slices.Contains(noSockets, roomOf(f.pkg)) {
			continue
		}
		for _, path := range f.imports {
			if below(path, "net") {
				t.Errorf("%s: %s may not import %s", f.path, f.pkg, path)
			}
		}
	}
}

// Only package vfs opens files of volumes and logs: everybody else would miss its faults in tests.
func TestOneSeamToDisks(t *testing.T) {
	for _, f := range sources(t) {
		if room := roomOf(f.pkg); f.test || (room != intentlog && room != volume) {
			continue
		}
		for _, path := range f.imports {
			if below(path, "os") || below(path, "syscall") || below(path, "golang.org/x/sys") {
				t.Errorf("%s: %s may not import %s: files go through internal/vfs", f.path, f.pkg, path)
			}
		}
	}
}
