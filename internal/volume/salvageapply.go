package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/zeebo/blake3"

	"keelson/internal/block"
	"keelson/internal/undo"
)

// Range is a range of bytes of the volume.
type Range struct{ Off, Len int64 }

// ErrOutside is in the error about a range that the volume does not have, or of which the salvage has nothing.
var ErrOutside = errors.New("nothing to apply")

// ApplyBytesMax is how much of a salvage is written with one request.
const ApplyBytesMax = 1 << 20

// SumsMax is how many ranges are asked for at a time by PlanSalvage.
const SumsMax = 64

// Sum is a digest of what a range holds.
type Sum = [32]byte

// applying is a salvage that is about to be applied: its view and the ranges asked for, in order and apart.
type applying struct {
	id     string
	view   *undo.View
	ranges []Range
}

// openApplying checks the ranges (none: all that the salvage has).
func (v *Volume) openApplying(id string, ranges []Range) (*applying, error) {
	view, err := v.OpenSalvage(id)
	if err != nil {
		return nil, err
	}
	a := &applying{id: id, view: view, ranges: ranges}
	if len(ranges) == 0 {
		a.ranges = []Range{{0, v.size}}
	}
	if err := a.check(v.size); err != nil {
		return nil, errors.Join(a.say(err), view.Close())
	}
	return a, nil
}

func (a *applying) say(err error) error { return fmt.Errorf("apply salvage %s: %w", a.id, err) }

// check refuses ranges that are not possible, and joins those that overlap or touch.
func (a *applying) check(size int64) error {
	sorted := slices.Clone(a.ranges)
	slices.SortFunc(sorted, func(x, y Range) int { return cmp.Compare(x.Off, y.Off) })
	a.ranges = nil
	for _, r := range sorted {
		if r.Off < 0 || r.Len <= 0 || r.Off > size || r.Len > size-r.Off {
			return fmt.Errorf("%w: %d bytes at %d are not within the volume of %d bytes", ErrOutside, r.Len, r.Off, size)
		}
		if e := a.view.Extents(r.Off, r.Len, 1); len(e) == 0 || !e[0].Saved && e[0].Len >= r.Len {
			return fmt.Errorf("%w: the salvage has nothing of %d bytes at %d", ErrOutside, r.Len, r.Off)
		}
		if n := len(a.ranges); n > 0 && r.Off <= a.ranges[n-1].Off+a.ranges[n-1].Len {
			last := &a.ranges[n-1]
			last.Len = max(last.Len, r.Off+r.Len-last.Off)
			continue
		}
		a.ranges = append(a.ranges, r)
	}
	return nil
}

// each calls f for what the salvage has of the ranges, in pieces of at most that many bytes.
func (a *applying) each(ctx context.Context, most int64, f func(undo.Extent) error) error {
	for _, r := range a.ranges {
		for off, end := r.Off, r.Off+r.Len; off < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			list := a.view.Extents(off, end-off, 1)
			if len(list) == 0 {
				break
			}
			e := list[0]
			if e.Saved {
				e.Len = min(e.Len, most)
				if err := f(e); err != nil {
					return fmt.Errorf("%d bytes at %d: %w", e.Len, e.Off, err)
				}
			}
			off += e.Len
		}
	}
	return nil
}

// ApplySalvage writes what a salvage has in the ranges (none: all of it) with do, which does a request at the source, here or on
// another server, and returns its outcome; the buffer is not its own. What the salvage has not is left alone. A flush ends it.
// Returns the bytes written.
func (v *Volume) ApplySalvage(ctx context.Context, id string, ranges []Range, do func(context.Context, *block.Request) error) (written int64, err error) {
	a, err := v.openApplying(id, ranges)
	if err != nil {
		return 0, err
	}
	defer a.view.Close()
	err = a.each(ctx, ApplyBytesMax, func(e undo.Extent) error {
		err := applyPiece(ctx, a.view, e, do)
		if err == nil {
			written += e.Len
		}
		return err
	})
	if err == nil {
		err = do(ctx, &block.Request{Op: block.Flush})
	}
	if err != nil {
		return written, a.say(fmt.Errorf("%d bytes were written before: %w", written, err))
	}
	return written, nil
}

func applyPiece(ctx context.Context, view *undo.View, e undo.Extent, do func(context.Context, *block.Request) error) error {
	if e.Zero {
		return do(ctx, &block.Request{Op: block.Zero, Off: e.Off, Len: e.Len})
	}
	buf := block.NewBuffer(int(e.Len))
	defer buf.Release()
	if _, err := view.ReadAt(buf.Bytes, e.Off); err != nil {
		return err
	}
	return do(ctx, &block.Request{Op: block.Write, Off: e.Off, Len: e.Len, Buf: buf})
}

// submitOne waits for one request.
func submitOne(submit func([]*block.Request), r *block.Request) error {
	part := &longPart{ready: make(chan struct{}, 1)}
	r.By = part
	submit([]*block.Request{r})
	<-part.ready
	return r.Err
}

// ApplyPlan is what applying a salvage would change.
type ApplyPlan struct {
	Changes []Range // the first of them, in order
	Bytes   int64   // that would change, of all of them
	Equal   int64   // bytes that the volume has already as the salvage has them
}

// PlanSalvage compares what a salvage has in the ranges (none: all of it) with what the volume has now, by its digests.
func (v *Volume) PlanSalvage(ctx context.Context, id string, ranges []Range, most int, sums func(context.Context, []Range) ([]Sum, error)) (p ApplyPlan, err error) {
	a, err := v.openApplying(id, ranges)
	if err != nil {
		return p, err
	}
	defer a.view.Close()
	buf := block.NewBuffer(int(min(int64(1)<<v.region, ApplyBytesMax)))
	defer buf.Release()
	var asked []Range
	var have []Sum
	compare := func() error {
		theirs, err := sums(ctx, asked)
		if err == nil && len(theirs) != len(asked) {
			err = fmt.Errorf("%d digests came for %d ranges", len(theirs), len(asked))
		}
		for i := 0; err == nil && i < len(asked); i++ {
			p.add(asked[i], have[i] == theirs[i], most)
		}
		asked, have = asked[:0], have[:0]
		return err
	}
	err = a.each(ctx, int64(len(buf.Bytes)), func(e undo.Extent) error {
		data := buf.Bytes[:e.Len]
		if _, err := a.view.ReadAt(data, e.Off); err != nil {
			return err
		}
		asked, have = append(asked, Range{e.Off, e.Len}), append(have, blake3.Sum256(data))
		if len(asked) < SumsMax {
			return nil
		}
		return compare()
	})
	if err == nil && len(asked) > 0 {
		err = compare()
	}
	if err != nil {
		return p, a.say(err)
	}
	return p, nil
}

func (p *ApplyPlan) add(r Range, same bool, most int) {
	if same {
		p.Equal += r.Len
		return
	}
	p.Bytes += r.Len
	if n := len(p.Changes); n > 0 && p.Changes[n-1].Off+p.Changes[n-1].Len == r.Off {
		p.Changes[n-1].Len += r.Len
	} else if n < most {
		p.Changes = append(p.Changes, r)
	}
}

// Sums are the digests of what the volume has in these ranges, read as an application would; at most SumsMax of at most
// ApplyBytesMax each. Only a source has them.
func (v *Volume) Sums(ctx context.Context, ranges []Range) ([]Sum, error) {
	if len(ranges) > SumsMax {
		return nil, fmt.Errorf("volume %s: %d digests at once are more than %d", v.name, len(ranges), SumsMax)
	}
	out := make([]Sum, 0, len(ranges))
	for _, r := range ranges {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if r.Len > ApplyBytesMax || r.Len <= 0 {
			return nil, fmt.Errorf("volume %s: a digest of %d bytes is not possible", v.name, r.Len)
		}
		read := &block.Request{Op: block.Read, Off: r.Off, Len: r.Len}
		if err := read.Check(v.size); err != nil {
			return nil, fmt.Errorf("volume %s: %w", v.name, err)
		}
		read.Buf = block.NewBuffer(int(r.Len))
		err := submitOne(v.Submit, read)
		out = append(out, blake3.Sum256(read.Buf.Bytes))
		read.Buf.Release()
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
