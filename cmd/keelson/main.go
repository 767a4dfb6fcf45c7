// Command keelson is the agent, the command line and the demo of Keelson, in one binary.
//
// Each verb has a file of its own. What the verbs share: app (streams, global flags, the client), errors.go (exit codes),
// and overview.go (the status for people).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set when a release is built (-ldflags "-X main.version=1.2.3").
var version = "dev"

func main() {
	signals := []os.Signal{syscall.SIGTERM}
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if !signal.Ignored(sig) { // as nohup, or a shell's &, has made it
			signals = append(signals, sig)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, newApp(os.Stdin, os.Stdout, os.Stderr), os.Args[1:]))
}

// run carries out a command line and returns the exit code.
func run(ctx context.Context, a *app, args []string) int {
	root := newRoot(a)
	root.SetArgs(args)
	return a.finish(root.ExecuteContext(ctx))
}
