package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"keelson/internal/api"
	"keelson/internal/attach"
	"keelson/internal/config"
	"keelson/internal/node"
)

// runAgent runs an agent until ctx ends. A variable, so that tests of the command line can run a small one.
var runAgent = node.Run

func agentCommand(a *app) *cobra.Command {
	var file string
	var print bool
	c := &cobra.Command{
		Use:   "agent --config FILE",
		Short: "Runs one server's agent in the foreground; SIGTERM stops it cleanly",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if print {
				_, err := a.out.Write(config.Render(config.Example()))
				return err
			}
			if file == "" {
				return usagef("no configuration is named").WithNext("give --config FILE; --print-config shows one")
			}
			cfg, err := config.Load(file)
			if err != nil {
				return configError(file, err)
			}
			log := logger(a.err, cfg.Log, a.json)
			if err := attach.PrepareMemory(cfg.Device.LockMemory); err != nil {
				return runError{err}
			}
			if err := runAgent(c.Context(), cfg, log, version); err != nil && !errors.Is(err, context.Canceled) {
				return runError{err}
			}
			return nil
		},
	}
	c.Flags().StringVar(&file, "config", "", "configuration, `FILE`")
	c.Flags().BoolVar(&print, "print-config", false, "print a documented configuration to start from, and end")
	return c
}

// configError says what is wrong in a configuration, each problem on a line of its own.
func configError(file string, err error) error {
	var e *config.Error
	if !errors.As(err, &e) {
		return api.Errorf(api.Failed, "configuration "+file, "%v", err).WithNext("keelson agent --print-config shows one to start from")
	}
	return api.Errorf(api.Failed, "configuration", "%v", e).WithNext("correct it; keelson agent --print-config shows all keys")
}

// logger writes to standard error as the configuration says.
func logger(w io.Writer, l config.Log, json bool) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		level = slog.LevelInfo // the configuration was checked
	}
	o := &slog.HandlerOptions{Level: level}
	if w == nil {
		w = os.Stderr
	}
	if json || l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
