package volume

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/wire"
)

// TestWhatIsGivenUpIsNotClaimed: while content of another line enters, a copy that gives up writes agrees with its old line only up to
// where the two lines part (rule 12).
func TestWhatIsGivenUpIsNotClaimed(t *testing.T) {
	if err := givenUpRun(t, 0); err != nil {
		t.Fatal(err)
	}
	if err := givenUpRun(t, omitCutBack); err == nil {
		t.Fatal("history and position were not cut back, and nothing noticed")
	}
}

func givenUpRun(t *testing.T, o omission) error {
	w := newReturning(t, o, false)
	was, source := w.a.v.Own(), w.b.v.Own()
	agreed := lineage.CutBack(was.History, was.Position, source.History, source.Position)
	if agreed.Number >= was.Position.Number {
		t.Fatalf("nothing is given up: %+v, %+v", was, source)
	}
	g, _ := nil2(w.b, w.a, 2)
	if at, _ := w.a.v.AgreedWith(was.History, was.Position); at != agreed {
		return fmt.Errorf("in mid-resync it agrees with its old line up to %+v, the lines part at %+v", at, agreed)
	}
	_ = g.Close(errCut)
	w.a.wait("SessionEnded", is[mirror.SessionEnded])
	w.a.crash(true)
	if at, _ := w.a.v.AgreedWith(was.History, was.Position); at != agreed {
		return fmt.Errorf("after a crash it agrees with its old line up to %+v", at)
	}
	return nil
}

// holdPages keeps the versions of the second page of a map from arriving until it is told to go on.
type holdPages struct {
	*pipe
	once sync.Once
	held chan struct{}
	goOn chan struct{}
}

func (h *holdPages) Read() (wire.Header, *block.Buffer, error) {
	header, body, err := h.pipe.Read()
	if err == nil && header.Type == wire.TypePages && header.Number == 1 {
		h.once.Do(func() {
			close(h.held)
			<-h.goOn
		})
	}
	return header, body, err
}

// TestWritesDuringTheComparison: a write to a region that was found equal a moment ago, while others are still compared (rule 13).
func TestWritesDuringTheComparison(t *testing.T) {
	if err := comparisonRun(t, 0); err != nil {
		t.Fatal(err)
	}
	if err := comparisonRun(t, omitMeanwhile); err == nil {
		t.Fatal("the write was not put into the set, and nothing noticed")
	}
}

func comparisonRun(t *testing.T, o omission) error {
	const size, second = 48 << 20, pageRegions * testRegion // two pages of the map
	a, b := newServer(t, "a", size), newServer(t, "b", size)
	a.close()
	a.omit = o
	a.open()
	a.serve(1)
	put(t, a.v, 0, random(1, 4*testRegion))
	put(t, a.v, second, random(2, 4*testRegion))
	flush(t, a.v)
	p := connect(a, b, lineage.Member{})
	_ = p.Close(errCut)
	b.wait("SessionEnded", is[mirror.SessionEnded])
	a.wait("LinkDown", is[mirror.LinkDown])
	put(t, a.v, testRegion, random(3, 512))
	put(t, a.v, second+testRegion, random(4, 512))

	hold := &holdPages{held: make(chan struct{}), goOn: make(chan struct{})}
	beginBetween(a, b, lineage.Member{Mode: lineage.Async}, false, func(p *pipe) Stream { hold.pipe = p; return hold }, func(p *pipe) Stream { return p })
	<-hold.held
	put(t, a.v, 3*testRegion, random(5, 512)) // of the first page, which is decided
	close(hold.goOn)
	a.wait("InStep", is[mirror.InStep])
	flush(t, a.v)
	if !bytes.Equal(region(a, 3), region(b, 3)) {
		return errors.New("the resync has ended, and the copies differ")
	}
	return nil
}
