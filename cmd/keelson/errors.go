package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"keelson/internal/api"
)

// usagef is the error of a command line that is wrong.
func usagef(format string, args ...any) *api.Error { return api.Errorf(api.Usage, "", format, args...) }

// runError marks errors of verbs, to tell them from those that cobra finds in the command line.
type runError struct{ error }

func (e runError) Unwrap() error { return e.error }

// finish reports how a command ended and returns its exit code.
func (a *app) finish(err error) int {
	if err == nil {
		return 0
	}
	e := a.asError(err)
	a.report(e)
	if a.told {
		return int(e.Code)
	}
	if a.json || slices.Contains(os.Args, "--json") { // flags may not have been read when they were wrong
		_ = a.document(errorDocument{e, e}) // nothing to do about a stream that is closed
	}
	return int(e.Code)
}

// errorDocument is what --json prints of an error: its fields (code, rule, message, ...), and the same under "error",
// where a program that reads results finds it without a second look.
type errorDocument struct {
	*api.Error
	Nested *api.Error `json:"error"`
}

// asError makes an api.Error of any error that a command ended with.
func (a *app) asError(err error) *api.Error {
	var e *api.Error
	var run runError
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.As(err, &run):
		return api.AsError(err)
	}
	return usagef("%s", err.Error()).WithNext("see keelson --help") // all others are cobra's, about the command line
}

// report writes an error for people.
func (a *app) report(e *api.Error) {
	head := "keelson: "
	if e.Object != "" {
		head += e.Object + ": "
	}
	a.note("%s%s", head, strings.ReplaceAll(e.Message, "\n", "\n  "))
	for _, part := range []struct{ name, text string }{{"rule", e.Rule}, {"waits for", e.Waits}, {"next", e.Next}} {
		if part.text != "" {
			a.note("  %s: %s", part.name, part.text)
		}
	}
}
