package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"

	"golang.org/x/term"

	"keelson/internal/api"
)

// screen is the live status on a terminal: the alternate screen, redrawn as a whole in one write, so that it does not flicker.
type screen struct {
	out      io.Writer
	keys     *os.File // nil: no keys
	restore  *term.State
	size     func() (width, height int)
	overview func(*api.Status) string
	dialog   dialog // what keys do

	mu   sync.Mutex
	last *api.Status
}

const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // alternate screen, no cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	homeScreen  = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// openScreen takes the terminal, if standard output is one.
func openScreen(a *app) (*screen, bool) {
	out, ok := terminal(a.out)
	if !ok {
		return nil, false
	}
	s := &screen{out: out, overview: a.overview, dialog: dialog{switchover: a.client().Switchover}, size: func() (int, int) {
		width, height, err := term.GetSize(int(out.Fd()))
		if err != nil || width <= 0 || height <= 0 {
			return 80, 24
		}
		return width, height
	}}
	s.dialog.redraw = s.redraw
	if in, ok := terminal(a.in); ok {
		if state, err := term.MakeRaw(int(in.Fd())); err == nil {
			s.keys, s.restore = in, state
		}
	}
	s.write(enterScreen)
	return s, true
}

func (s *screen) write(text string) { _, _ = io.WriteString(s.out, text) } // a terminal that is gone needs nothing

// close gives the terminal back.
func (s *screen) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(leaveScreen)
	if s.restore != nil {
		_ = term.Restore(int(s.keys.Fd()), s.restore) // see write
	}
}

// show draws a status.
func (s *screen) show(status *api.Status) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = status
	s.draw()
	return nil
}

// draw draws the last status; mu is held.
func (s *screen) draw() {
	if s.last == nil {
		return
	}
	width, height := s.size()
	lines := below(strings.Split(strings.TrimSuffix(s.overview(s.last), "\n"), "\n"), s.dialog.lines(), width, height)
	s.write(homeScreen + strings.Join(lines, clearLine+"\r\n") + clearLine + clearBelow)
}

func (s *screen) redraw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draw()
}

func (s *screen) status() *api.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// fit reduces text to a screen and says how much is missing.
func fit(lines []string, width, height int) []string {
	if len(lines) > height && height > 0 {
		missing := len(lines) - height + 1
		lines = append(append([]string{}, lines[:height-1]...), fmt.Sprintf("... %d more lines: make the window higher, or name a volume", missing))
	}
	for i := range lines {
		lines[i] = clip(lines[i], width)
	}
	return lines
}

// clip cuts a line at the width of the screen.
func clip(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:max(0, width-1)]) + ">"
}

// untilQuit draws anew when the window's size changes, does what keys ask for, and returns at q, Ctrl-C, or the end of ctx.
func (s *screen) untilQuit(ctx context.Context) {
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	quit := make(chan struct{})
	if s.keys != nil {
		go func() { // ends with q, with the terminal or with the process: a read of a terminal cannot be called off
			defer close(quit)
			s.dialog.read(ctx, s.keys, s.status)
		}()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-quit:
			return
		case <-resized:
			s.redraw()
		}
	}
}
