// Command vm runs the tests that need a kernel with NBD, network namespaces and netem: in a virtual machine, under software
// emulation where there is no other. It builds the binary, makes a cluster's certificates and configurations, and has
// guest.sh run attach.sh with them. `make vm-test` does it; it takes minutes and is no part of `make test`.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"keelson/internal/config"
	"keelson/internal/peer"
)

// guestMax is how long the guest may take: then it is ended.
const guestMax = 30 * time.Minute

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

func run() error {
	share, err := os.MkdirTemp("", "keelson-vm-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(share) }() // what stays is in the machine's folder for temporary files
	build := command("go", "build", "-o", filepath.Join(share, "keelson"), "./cmd/keelson")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := build.Run(); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	if err := configure(share); err != nil {
		return err
	}
	begin := time.Now()
	err = command("bash", "test/vm/guest.sh", "run", "-t", fmt.Sprint(int(guestMax.Seconds())), "-s", share, "test/vm/attach.sh").Run()
	fmt.Printf("the guest took %s\n", time.Since(begin).Round(time.Second))
	return err
}

func command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

// restartWait is how long requests wait for an agent: under software emulation everything takes its time.
const restartWait = 2 * time.Minute

// patient makes the limits fit a machine that is emulated, on processors that others use too.
func patient(l *config.Limits) {
	for _, limit := range []*config.Duration{&l.SyncTimeout, &l.HoldMax, &l.JoinWait, &l.DeadAfter, &l.HandshakeMax} {
		*limit = config.Duration(time.Minute)
	}
	l.BootWait = config.Duration(5 * time.Minute)
}

var nodes = []string{"a", "b", "c"}

func address(i int) string { return fmt.Sprintf("10.77.0.%d:7401", i+1) }

// configure writes what each agent in the guest needs.
func configure(share string) error {
	ca, err := peer.NewCA()
	if err != nil {
		return err
	}
	for i, node := range nodes {
		dir := filepath.Join(share, node)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := ca.IssueTo(dir, node); err != nil {
			return err
		}
		a := config.Default()
		a.Node, a.Cluster = node, ca.Cluster
		a.State, a.API.Socket, a.NBD.Socket = ".", "agent.sock", "nbd.sock"
		a.Device.Directory, a.Device.RestartWait = "dev", config.Duration(restartWait)
		patient(&a.Limits)
		a.Listen.Address = address(i)
		a.TLS.CA, a.TLS.Cert, a.TLS.Key = peer.CAFile, peer.CertFile, peer.KeyFile
		for k, other := range nodes {
			if other != node {
				a.Peers = append(a.Peers, config.Peer{Name: other, Address: address(k)})
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "keelson.toml"), config.Render(a), 0o600); err != nil {
			return err
		}
	}
	return nil
}
