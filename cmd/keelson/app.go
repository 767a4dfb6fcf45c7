package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"keelson/internal/api"
)

const (
	defaultSocket  = "/run/keelson/agent.sock"
	defaultTimeout = time.Minute
)

// app is what all verbs share: the process's streams and the global flags.
type app struct {
	in       io.Reader
	out, err io.Writer
	now      func() time.Time

	json    bool
	told    bool // the document was written, although the command fails
	socket  string
	timeout time.Duration
}

func newApp(in io.Reader, out, err io.Writer) *app {
	return &app{in: in, out: out, err: err, now: time.Now}
}

// newRoot makes the whole tree of commands.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "keelson",
		Short: "Keeps a volume identical on several servers",
		Long: `Keelson keeps a volume (a disk, a partition, a logical volume or a file) identical on several servers.
One server is the source: applications use the volume there. Every other is a target. A switchover makes
another server the source; only what differs is copied.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by a rule, 4 not finished in time, 5 no agent.`,
		SilenceErrors: true, SilenceUsage: true,
		RunE: needsVerb,
	}
	socket := os.Getenv("KEELSON_SOCKET")
	if socket == "" {
		socket = defaultSocket
	}
	flags := root.PersistentFlags()
	flags.BoolVar(&a.json, "json", false, "one JSON document on standard output")
	flags.StringVar(&a.socket, "socket", socket, "the agent's `PATH` (or KEELSON_SOCKET)")
	flags.DurationVar(&a.timeout, "timeout", defaultTimeout, "how long the command may take, such as 30s")
	root.AddCommand(nodeCommand(a))
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.AddCommand(agentCommand(a), auditCommand(a), checkCommand(a), clientCommand(a), debugCommand(a), demoCommand(a), deviceHelper(a), eventsCommand(a), manCommand(a), mirrorCommand(a), salvageCommand(a), splitBrainCommand(a),
		statusCommand(a), switchoverCommand(a), userCommand(a), versionCommand(a), volumeCommand(a), webCommand(a))
	return root
}

// group makes a command that only has verbs.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, RunE: needsVerb}
	c.AddCommand(verbs...)
	return c
}

func needsVerb(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unknown command %q for %q", args[0], c.CommandPath()).WithNext("see %s --help", c.CommandPath())
	}
	_, _ = fmt.Fprint(c.ErrOrStderr(), c.UsageString()) // nothing to do about a stream that is closed
	return usagef("%s needs a command", c.CommandPath())
}

// limited is the context of a command that has to end.
func (a *app) limited(c *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Context(), a.timeout)
}

// unlimited is the context of a command that goes on until it is interrupted, unless a limit was asked for.
func (a *app) unlimited(c *cobra.Command) (context.Context, context.CancelFunc) {
	if c.Flags().Changed("timeout") {
		return a.limited(c)
	}
	return context.WithCancel(c.Context())
}

// client is that of the agent chosen by --socket.
func (a *app) client() api.Service { return api.NewSocketClient(a.socket) }

// print writes for people; progress and remarks go to standard error with note.
func (a *app) print(format string, args ...any) {
	_, _ = fmt.Fprintf(a.out, format, args...) // nothing to do about a stream that is closed
}

func (a *app) note(format string, args ...any) {
	_, _ = fmt.Fprintf(a.err, format+"\n", args...) // see print
}

// document writes the JSON document of a command.
func (a *app) document(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// line writes one JSON object a line.
func (a *app) line(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// terminal is the stream's file if it is a terminal.
func terminal(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, false
	}
	return f, true
}
