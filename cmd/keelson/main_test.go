package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"keelson/internal/api/apitest"
)

var updateScripts = flag.Bool("update", false, "write the expected output in testdata anew")

// scriptTime is when the scripts happen.
var scriptTime = time.Date(2026, 11, 22, 10, 0, 30, 0, time.UTC)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keelson": func() {
		runAgent = smallAgent
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		a := newApp(os.Stdin, os.Stdout, os.Stderr)
		a.now = func() time.Time { return scriptTime }
		os.Exit(run(ctx, a, os.Args[1:]))
	}})
}

// TestScripts runs the command line as people do. A script's "serve NAME" offers a Service at $KEELSON_SOCKET.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", UpdateScripts: *updateScripts, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			dir, err := os.MkdirTemp("", "k") // paths of sockets are short
			if err != nil {
				return err
			}
			e.Defer(func() { stopDemos(dir) })
			e.Setenv("TZ", "UTC")
			e.Setenv("D", dir)
			e.Setenv("TMPDIR", dir)
			e.Setenv("KEELSON_SOCKET", dir+"/s")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": func(ts *testscript.TestScript, _ bool, args []string) {
				s, ok := services[args[0]]
				if !ok {
					ts.Fatalf("there is no service %q", args[0])
				}
				stop, err := apitest.Listen(ts.Getenv("KEELSON_SOCKET"), s)
				ts.Check(err)
				ts.Defer(stop)
			},
			"exits": exits,
		},
	})
}
