package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keelson/internal/demo"
)

func demoCommand(a *app) *cobra.Command {
	o := demo.Options{Mode: "sync", Encryption: "on"}
	size := sizeFlag{bytes: 1 << 30}
	var detach bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "Runs three servers with a volume on this machine, to try it out",
		Long: `Runs three agents a, b and c as processes of their own on 127.0.0.1, with certificates and the volume "data":
source a, targets b and c. Ctrl-C ends them; with --detach they go on until keelson demo stop. A demo that was
stopped is started again by naming its directory.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f := c.Flags()
			o.SizeBytes, o.Given = size.bytes, f.Changed("size") || f.Changed("mode") || f.Changed("encryption")
			return a.demo(c, o, detach)
		},
	}
	c.Flags().StringVar(&o.Dir, "dir", "", "`DIR`ectory for everything (default a new one under TMPDIR)")
	c.Flags().Var(&size, "size", "of the volume")
	c.Flags().StringVar(&o.Mode, "mode", o.Mode, "of the mirrors: sync or async")
	c.Flags().StringVar(&o.Encryption, "encryption", o.Encryption, "of the streams between the servers: on or off")
	c.Flags().BoolVar(&detach, "detach", false, "return when both mirrors are Mirroring")
	c.AddCommand(demoStop(a))
	return c
}

// demo starts one and stays with it, unless it is to be left alone.
func (a *app) demo(c *cobra.Command, o demo.Options, detach bool) error {
	if err := checkDemo(o); err != nil {
		return err
	}
	var err error
	if o.Program, err = os.Executable(); err != nil {
		return runError{err}
	}
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "keelson-"); err != nil {
			return runError{err}
		}
		if _, err := demo.CheckDir(o.Dir); err != nil {
			return errors.Join(err, os.Remove(o.Dir))
		}
	}
	ctx, cancel := a.limited(c)
	d, err := demo.Start(ctx, o, func(text string) { a.note("%s", text) })
	cancel()
	if d == nil {
		return runError{err}
	}
	if err != nil && detach {
		return runError{err}
	}
	if err != nil {
		a.report(a.asError(err))
	}
	if err := a.introduce(d, o, detach); err != nil || detach {
		return err
	}
	return a.attend(c.Context(), d)
}

func checkDemo(o demo.Options) error {
	if o.Mode != "sync" && o.Mode != "async" {
		return usagef("--mode %q is neither sync nor async", o.Mode)
	}
	if o.Encryption != "on" && o.Encryption != "off" {
		return usagef("--encryption %q is neither on nor off", o.Encryption)
	}
	if o.SizeBytes < 1<<20 || o.SizeBytes%512 != 0 {
		return usagef("--size has to be at least 1MiB and a multiple of 512 bytes")
	}
	return nil
}

// attend stays until it is interrupted or all agents are gone.
func (a *app) attend(ctx context.Context, d *demo.Demo) error {
	a.note("Ctrl-C ends the demo.")
	began := a.now()
	if err := d.Foreground(ctx, func(text string) { a.note("%s", text) }); err != nil {
		return runError{err}
	}
	a.note("the demo is stopped after %s; its files stay in %s", a.now().Sub(began).Round(time.Second), d.Dir)
	return nil
}

// introduce prints what there is, and what to try.
func (a *app) introduce(d *demo.Demo, o demo.Options, detach bool) error {
	source, web := demo.Nodes[0], ""
	if d.Status != nil {
		source, web = d.Status.Node, d.Status.Web
	}
	if a.json {
		sockets := map[string]string{}
		for _, node := range demo.Nodes {
			sockets[node] = demo.Socket(d.Dir, node)
		}
		return a.document(map[string]any{"dir": d.Dir, "volume": demo.Volume, "source": source, "device": d.Device(), "web": web, "sockets": sockets, "again": d.Again})
	}
	made := "runs"
	if d.Again {
		made = "runs again"
	}
	a.print("The demo %s in %s: servers a, b, c, volume %s, source %s.\n\n", made, d.Dir, demo.Volume, source)
	if web != "" {
		a.print("page    %s\n", web)
	}
	a.print("device  %s\n\n", d.Device())
	if d.Status != nil {
		a.print("%s\n", a.overview(d.Status))
	}
	a.print("%s", whatNext(d, source, detach))
	return nil
}

// whatNext are commands to copy.
func whatNext(d *demo.Demo, source string, detach bool) string {
	keelson := quote(os.Args[0])
	heir := demo.Nodes[1]
	if source == heir {
		heir = demo.Nodes[0]
	}
	lines := []string{"Try next" + map[bool]string{true: ":", false: " (in another terminal):"}[detach],
		"  export KEELSON_SOCKET=" + quote(demo.Socket(d.Dir, source)),
		"  " + keelson + " web link    # prints an address that lets you in to the page, once",
		"  " + keelson + " status --watch",
		"  qemu-io -f raw -c 'write -P 0x5a 0 8M' -c flush " + quote(d.Device()) + "    # or any NBD client",
		"  " + keelson + " mirror pause data --target c",
		"  " + keelson + " switchover data --to " + heir + " --plan",
		"  " + keelson + " switchover data --to " + heir + " --yes",
		"  " + keelson + " mirror continue data --target c",
		"  " + keelson + " events",
		"Kill a server and start it again:",
		"  kill -9 $(cat " + quote(d.Dir+"/c/agent.pid") + ")",
		"  " + keelson + " agent --config " + quote(demo.Config(d.Dir, "c")) + " 2>>" + quote(d.Dir+"/c/agent.log") + " &",
		"End the demo:",
		"  " + keelson + " demo stop --dir " + quote(d.Dir), ""}
	return strings.Join(lines, "\n")
}

// quote writes a word for the shell.
func quote(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:=@%,", r))
	}) < 0
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func demoStop(a *app) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "stop --dir DIR", Short: "Ends the agents of a demo; its files stay", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.limited(c)
			defer cancel()
			stopped, err := demo.Stop(ctx, dir)
			if err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(map[string]any{"dir": dir, "stopped": append([]demo.Stopped{}, stopped...)})
			}
			for _, s := range stopped {
				if s.Killed {
					a.note("agent %s (process %d) did not stop cleanly in time and was killed", s.Node, s.PID)
				}
			}
			if len(stopped) == 0 {
				a.print("no agent of the demo in %s runs\n", dir)
				return nil
			}
			a.print("%d agents of the demo in %s stopped; start it again with keelson demo --dir %s, or remove it with rm -r %s\n", len(stopped), dir, quote(dir), quote(dir))
			return nil
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "the demo's `DIR`ectory")
	_ = c.MarkFlagRequired("dir") // fails only for a flag that is not defined
	return c
}
