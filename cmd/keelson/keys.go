package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

	"keelson/internal/api"
)

// dialog is what the keys of the live screen do: s asks which volume to switch over to which server, shows the plan, and
// switches over after y. Its lines stand below the overview. It never forces: what is at risk is for a command that is typed.
//
// Its life: idle -> choosing (s) -> asked for a plan (a digit) -> confirming -> switching (y) -> idle, with what became
// of it. Esc, n and anything else lead back to idle; a switchover that has begun goes on whatever is typed.
type dialog struct {
	switchover func(ctx context.Context, r api.Switchover, step func(api.SwitchoverStep)) (*api.SwitchoverResult, error)
	redraw     func()

	mu      sync.Mutex
	at      stage
	choices []api.Switchover
	chosen  api.Switchover
	text    []string // below the overview
	workers sync.WaitGroup
}

type stage int

const (
	idle stage = iota
	choosing
	planning
	confirming
	switching
)

const (
	keyEsc     = 0x1b
	choicesMax = 9 // digits
	linesMax   = 16
)

// lines are what stands below the overview, the help last.
func (d *dialog) lines() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := append([]string{}, d.text...)
	switch d.at {
	case choosing:
		return append(out, "a digit chooses, Esc goes back")
	case confirming:
		return append(out, "y switches over, n goes back")
	case planning, switching:
		return append(out, "wait")
	}
	return append(out, "s switches over, q quits")
}

// key takes one key; false: the screen is to end.
func (d *dialog) key(ctx context.Context, k byte, status *api.Status) bool {
	defer d.redraw()
	d.mu.Lock()
	defer d.mu.Unlock()
	if k == 3 || k == 4 || (k == 'q' || k == 'Q') && (d.at == idle || d.at == choosing) {
		return false
	}
	switch d.at {
	case idle:
		d.text = nil
		if k == 's' || k == 'S' {
			d.offer(status)
		}
	case choosing:
		d.at, d.text = idle, nil
		if n := int(k - '1'); k >= '1' && n < len(d.choices) {
			d.chosen = d.choices[n]
			d.at, d.text = planning, []string{"what would happen?"}
			d.work(func() { d.plan(ctx) })
		}
	case confirming:
		d.at, d.text = idle, nil
		if k == 'y' || k == 'Y' {
			d.at, d.text = switching, []string{fmt.Sprintf("switching %s over to %s", d.chosen.Volume, d.chosen.To)}
			d.work(func() { d.run(ctx) })
		}
	case planning, switching: // it ends by itself
	}
	return true
}

func (d *dialog) work(f func()) {
	d.workers.Add(1)
	go func() {
		defer d.workers.Done()
		f()
		d.redraw()
	}()
}

// offer lists what can be switched over now. mu is held.
func (d *dialog) offer(status *api.Status) {
	d.choices = nil
	var refused []string
	if status != nil {
		for _, v := range status.Volumes {
			for _, c := range v.Switchover {
				if !c.OK {
					refused = append(refused, fmt.Sprintf("  -  %s to %s: %s", v.Name, c.To, c.Reason))
				} else if len(d.choices) < choicesMax {
					d.choices = append(d.choices, api.Switchover{Volume: v.Name, To: c.To})
					d.text = append(d.text, fmt.Sprintf("  %d  %s to %s", len(d.choices), v.Name, c.To))
				}
			}
		}
	}
	d.text = append(d.text, refused[:min(len(refused), choicesMax)]...)
	if len(d.choices) == 0 {
		d.text = append(d.text, "nothing can be switched over now without force")
		return
	}
	d.at = choosing
	d.text = append([]string{"switch over:"}, d.text...)
}

// plan asks for the plan of what was chosen.
func (d *dialog) plan(ctx context.Context) {
	r := d.chosen
	r.Plan = true
	plan, err := d.switchover(ctx, r, func(api.SwitchoverStep) {})
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.at, d.text = idle, []string{err.Error()}
		return
	}
	d.at, d.text = confirming, planLines(plan)
}

// run switches over; each step is shown as it begins and ends.
func (d *dialog) run(ctx context.Context) {
	result, err := d.switchover(ctx, d.chosen, func(s api.SwitchoverStep) {
		if s.State == "planned" {
			return
		}
		d.mu.Lock()
		d.text = append(d.text, fmt.Sprintf("%-8s %s", s.State, s.Name))
		d.text = d.text[max(0, len(d.text)-linesMax):]
		d.mu.Unlock()
		d.redraw()
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = idle
	switch {
	case err != nil:
		d.text = append(d.text, err.Error())
	default:
		d.text = []string{fmt.Sprintf("%s switched over from %s to %s; writes were held for %d ms", result.Volume, orNone(result.From), result.To, result.Millis)}
	}
}

// read hands each key to the dialog until one ends the screen, or input does.
func (d *dialog) read(ctx context.Context, keys io.Reader, status func() *api.Status) {
	buf := make([]byte, 64)
	for {
		n, err := keys.Read(buf)
		if err != nil {
			return
		}
		typed := buf[:n]
		if n > 1 && typed[0] == keyEsc { // an arrow or function key, which means nothing here
			typed = typed[:1]
		}
		for _, k := range typed {
			if !d.key(ctx, k, status()) {
				return
			}
		}
	}
}

// below puts the dialog's lines under the overview, which gives way to them.
func below(overview, dialog []string, width, height int) []string {
	dialog = dialog[max(0, len(dialog)-max(1, height-1)):]
	lines := fit(overview, width, max(0, height-len(dialog)))
	for _, l := range dialog {
		lines = append(lines, clip(strings.ReplaceAll(l, "\n", " "), width))
	}
	return lines[max(0, len(lines)-height):]
}
