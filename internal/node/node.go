// Package node is one server's agent: it puts the rooms together and decides nothing. For each volume an actor steps the
// mirror machine with what happens and carries out its effects, one after the other; peers tell each other their state
// every second and at every change; administrators' calls come in through package api and are passed on to the source's
// agent where they have to be done there.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"keelson/internal/awake"
	"keelson/internal/cluster"
	"keelson/internal/config"
	"keelson/internal/flight"
	"keelson/internal/frontend/nbd"
	"keelson/internal/journal"
	"keelson/internal/mirror"
	"keelson/internal/peer"
	"keelson/internal/systemd"
	"keelson/internal/vfs"
	"keelson/internal/volume"
)

// Node is a running agent. Its life: Run makes it, opens what the state directory holds, listens, and ends it when its
// context ends; every goroutine is in wg and ends with ctx.
type Node struct {
	cfg     *config.Agent
	out     Outside
	id      peer.Identity
	log     *slog.Logger
	version string
	ctx     context.Context
	started time.Time
	wg      sync.WaitGroup
	nbd     *nbd.Server
	events  *journal.Log
	cluster *cluster.Store

	rejections rejections

	ca      atomic.Pointer[peer.CA] // nil: this server does not have its key
	shown   shown
	crashAt string // test hook: see crash
	ids     atomic.Uint64
	server  *peer.Server       // of peers
	stop    context.CancelFunc // ends ctx

	viewsMu sync.Mutex       // while a view is attached; before mu
	views   map[string]*view // by the name of the export

	peersMu    sync.Mutex // guards what follows, to the next blank line
	peers      map[string]*neighbour
	exchanging bool // neighbours run

	checking chan struct{} // one check at a time looks at the disks
	loads    chan struct{} // a token for each measurement that others make here

	making   turn        // one replica at a time is made, opened again or forgotten; before mu
	starting atomic.Bool // startMissed is at work

	mu      sync.Mutex
	volumes map[string]*vol  // by name
	broken  map[string]error // volumes that could not be opened
	page    *page            // nil: none is configured
	flight  *flight.Recorder // nil: nothing is recorded; fixed before the command line is served
	changed chan struct{}    // closed and replaced at every change that status shows
}

// Run runs an agent until ctx ends; then it stops cleanly. It returns an error if it cannot start or did not stop cleanly.
func Run(ctx context.Context, cfg *config.Agent, log *slog.Logger, version string) error {
	var lock vfs.File
	err := patiently(ctx, vfs.ErrInUse, func() (err error) { lock, err = lockState(cfg.State); return err })
	if err != nil {
		return err
	}
	defer lock.Close()
	id, err := identity(cfg.TLS)
	if err != nil {
		return err
	}
	if id.Node != cfg.Node {
		return fmt.Errorf("the certificate %s is node %q's, the configuration says node %q; give each server its own", cfg.TLS.Cert, id.Node, cfg.Node)
	}
	if cfg.Cluster != "" && id.Cluster != cfg.Cluster {
		return fmt.Errorf("the certificate %s is of cluster %s, the configuration says %s", cfg.TLS.Cert, id.Cluster, cfg.Cluster)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	n, err := newNode(ctx, cfg, id, Outside{}, log)
	if err != nil {
		return err
	}
	n.version, n.crashAt = version, os.Getenv("KEELSON_CRASH_AT")
	if err := n.loadCA(); err != nil {
		return errors.Join(err, n.events.Close(), n.cluster.Close())
	}
	return n.run(ctx, stop)
}

// newNode makes an agent that does nothing yet.
func newNode(ctx context.Context, cfg *config.Agent, id peer.Identity, out Outside, log *slog.Logger) (*Node, error) {
	if out.FS == nil {
		out.FS = vfs.OS
	}
	n := &Node{
		making:  make(turn, 1),
		started: time.Now(),
		cfg:     cfg, out: out, id: id, log: log, ctx: ctx, peers: map[string]*neighbour{},
		volumes: map[string]*vol{}, views: map[string]*view{}, broken: map[string]error{},
		changed: make(chan struct{}), checking: make(chan struct{}, 1), loads: make(chan struct{}, loadsAtOnce),
	}
	if err := n.openCluster(); err != nil {
		return nil, err
	}
	n.events = journal.Open(journal.Options{FS: out.FS, Dir: filepath.Join(cfg.State, "events"), Node: cfg.Node, Max: cfg.Limits.EventsMax, Now: time.Now, Log: log})
	n.id.Gate = peer.NewGate(n.judge)
	if err := n.enroll(); err != nil {
		return nil, errors.Join(err, n.events.Close(), n.cluster.Close())
	}
	n.meet()
	options := nbd.Options{
		Log: log, InFlightBytesMax: int64(cfg.Limits.InFlightBytes), RequestsMax: cfg.Limits.RequestsMax,
		ConnectionsMax: cfg.Limits.ConnectionsMax, HandshakeTimeout: time.Duration(cfg.Limits.HandshakeMax),
	}
	if cfg.NBD.TLS {
		options.TLSRequired = true // on TCP; a unix socket is guarded by its mode
		options.TLS = n.id.ClientsTLS(n.admitsClient, n.shownToClient)
	}
	n.nbd = nbd.NewServer(options)
	return n, nil
}

// identity reads this server's certificate files.
func identity(files config.TLS) (peer.Identity, error) {
	var pem [3][]byte
	for i, path := range []string{files.CA, files.Cert, files.Key} {
		var err error
		if pem[i], err = os.ReadFile(path); err != nil {
			return peer.Identity{}, fmt.Errorf("certificate files: %w; see [tls] in the configuration", err)
		}
	}
	id, err := peer.NewIdentity(pem[0], pem[1], pem[2])
	if err != nil {
		return id, fmt.Errorf("certificate %s: %w", files.Cert, err)
	}
	return id, nil
}

// lockState makes sure that one agent at a time uses the directory.
func lockState(dir string) (vfs.File, error) {
	if err := vfs.OS.MkdirAll(dir); err != nil {
		return nil, err
	}
	lock, err := vfs.OS.Open(filepath.Join(dir, "agent.lock"), vfs.Create|vfs.Lock)
	if errors.Is(err, vfs.ErrInUse) {
		return nil, fmt.Errorf("state directory %s is in use by another agent; stop that one, or give this one a directory of its own: %w", dir, err)
	}
	return lock, err
}

// A killed agent may hold its port and its lock for a moment longer than it can be seen: whoever starts right after it
// tries again for so long.
const (
	startPatience = 3 * time.Second
	startRetry    = 50 * time.Millisecond
)

// patiently repeats what fails with that error.
func patiently(ctx context.Context, passing error, try func() error) error {
	for end := time.Now().Add(startPatience); ; {
		err := try()
		if !errors.Is(err, passing) || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(startRetry):
		case <-ctx.Done():
			return err
		}
	}
}

func (n *Node) run(ctx context.Context, stop context.CancelFunc) (err error) {
	n.stop = stop
	err = patiently(ctx, syscall.EADDRINUSE, func() (err error) {
		n.server, err = n.listenPeers()
		return err
	})
	if err != nil {
		return errors.Join(err, n.events.Close(), n.cluster.Close())
	}
	local, err := n.listenLocal(n.cfg.API.Socket, n.cfg.API.Group)
	if err != nil {
		return errors.Join(err, n.end())
	}
	api := &http.Server{Handler: n.localHandler(), ConnContext: localContext, ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug)}
	pid := filepath.Join(n.cfg.State, "agent.pid")
	defer func() {
		stop()
		err = errors.Join(err, api.Close(), n.end())
		_ = os.Remove(pid)
		n.log.Info("agent stopped", "node", n.cfg.Node)
	}()
	if err := errors.Join(n.listenNBD(), n.listenMetrics(ctx)); err != nil {
		return err
	}
	if err := n.openPage(ctx); err != nil {
		return err
	}
	n.notifies(ctx, n.cfg.Notify)
	if err := os.WriteFile(pid, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o644); err != nil {
		return err
	}
	n.openVolumes()
	n.spawn(func() { n.gossip(ctx) })
	if n.cfg.LowLatency == config.On {
		n.spawn(func() { awake.Keep(ctx, awake.Device, n.urgent, n.log) })
	}
	n.record(ctx)
	n.spawn(func() { n.sample(ctx) })
	n.spawn(func() { n.keepKeys(ctx) })
	n.spawn(func() { _ = api.Serve(local) })
	n.spawn(func() { systemd.Tell(ctx, n.inWords, n.log) })
	n.spawn(func() { systemd.Follow(ctx, n.concerns, n.log) })
	n.log.Info("agent started", "node", n.cfg.Node, "cluster", n.id.Cluster, "version", n.version, "listen", n.server.Addr(), "socket", n.cfg.API.Socket)
	<-ctx.Done()
	return nil
}

func (n *Node) listenPeers() (*peer.Server, error) {
	return peer.Listen(n.cfg.Listen.Address, n.id, peer.Handlers{Stream: n.streamCame, Control: n.control(), Join: n.joinCame, Rejected: n.rejected}, n.peerOptions())
}

// spawn runs f in a goroutine that the node waits for.
func (n *Node) spawn(f func()) {
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		f()
	}()
}

// peerQueueBytes is room in a stream's queue above a mirror's limit, for what was let in just before the limit was reached.
const peerQueueBytes = 512 << 20

func (n *Node) peerOptions() peer.Options {
	l := n.cfg.Limits
	return peer.Options{
		HeartbeatEvery: time.Duration(l.Heartbeat), DeadAfter: time.Duration(l.DeadAfter),
		HandshakeTimeout: time.Duration(l.HandshakeMax), HandshakesMax: l.HandshakesMax, QueueBytesMax: int64(l.QueueBytes) + peerQueueBytes, Network: n.out.Network,
	}
}

func (n *Node) volumeLimits() volume.Limits {
	l := volume.DefaultLimits
	c := n.cfg.Limits
	l.DiskStall, l.CopiesWait = time.Duration(c.DiskStall), time.Duration(c.CopiesWait)
	l.SyncTimeout, l.QueueBytesMax = time.Duration(c.SyncTimeout), int64(c.QueueBytes)
	l.CheckpointEvery, l.HotExtentsMax = time.Duration(c.CheckpointEvery), c.HotExtentsMax
	l.CopyQueueBytes = int64(c.ResyncBytes)
	l.UndoBytesMax, l.SalvageBytesMax, l.SalvageRetention = int64(c.UndoBytes), int64(c.SalvageBytes), time.Duration(c.SalvageRetention)
	return l
}

func (n *Node) machineConfig() mirror.Config {
	l := n.cfg.Limits
	c := mirror.Config{
		Self: n.cfg.Node, Incarnation: n.id.Incarnation, HoldMax: time.Duration(l.HoldMax), JoinWait: time.Duration(l.JoinWait), BootWait: time.Duration(l.BootWait),
		RetryMin: time.Duration(l.RetryMin), RetryMax: time.Duration(l.RetryMax),
	}
	c.Omit(n.out.Omit)
	return c
}

func (n *Node) listenNBD() error {
	l, err := n.listenSocket(n.cfg.NBD.Socket)
	if err != nil {
		return err
	}
	n.spawn(func() { _ = n.nbd.Serve(l) })
	if n.cfg.NBD.Address == "" {
		return nil
	}
	tcp, err := net.Listen("tcp", n.cfg.NBD.Address)
	if err != nil {
		return fmt.Errorf("nbd address %s: %w; choose a free one", n.cfg.NBD.Address, err)
	}
	n.spawn(func() { _ = n.nbd.Serve(tcp) })
	return nil
}

// bump wakes whoever watches the status, and tells peers.
func (n *Node) bump() {
	n.mu.Lock()
	close(n.changed)
	n.changed = make(chan struct{})
	n.mu.Unlock()
	for _, p := range n.neighbours() {
		p.kick()
	}
}

// inWords is the agent's state in a line, for systemctl status. It takes the locks that an answer takes.
func (n *Node) inWords() string {
	served, targets, other := 0, 0, 0
	for _, v := range n.status().Volumes {
		switch v.State {
		case "Serving":
			served++
		case "Target":
			targets++
		default:
			other++
		}
	}
	return fmt.Sprintf("%d volumes served, %d copies kept as target, %d in other states", served, targets, other)
}

// urgent changes while there are writes for which somebody waits at another server.
func (n *Node) urgent() (sum int64) {
	for _, v := range n.all() {
		sum += v.v.Urgent()
	}
	return sum
}

// find returns the volume of that name, or nil.
func (n *Node) find(name string) *vol {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.volumes[name]
}

func (n *Node) byID(id string) *vol {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, v := range n.volumes {
		if v.id == id {
			return v
		}
	}
	return nil
}

// all returns the open volumes.
func (n *Node) all() []*vol {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]*vol, 0, len(n.volumes))
	for _, v := range n.volumes {
		out = append(out, v)
	}
	return out
}

func (n *Node) volumesDir() string { return filepath.Join(n.cfg.State, "volumes") }

// openVolumes opens every replica that the state directory holds. One that cannot be opened is shown as failed, with the
// reason; the others work.
func (n *Node) openVolumes() {
	names, err := n.out.FS.List(n.volumesDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		n.log.Error("state directory", "err", err)
	}
	for _, name := range names {
		if dir := filepath.Join(n.volumesDir(), name); n.unfinished(dir) {
			n.log.Warn("the remains of a replica that was never made whole are removed", "dir", dir)
			if err := n.out.FS.RemoveAll(dir); err != nil {
				n.log.Error("state directory", "err", err)
			}
			continue
		}
		if err := n.openVolume(name); err != nil {
			n.cannotOpen(name, err)
		}
	}
}

// unfinished reports the directory of a replica whose making was cut off: an intent log without a header is none, and
// nothing was ever served from it.
func (n *Node) unfinished(dir string) bool {
	_, err := n.out.FS.Stat(filepath.Join(dir, "header"))
	return errors.Is(err, os.ErrNotExist)
}

func (n *Node) openVolume(name string) error { return n.openVolumeAfter(name, 0) }

// openVolumeAfter opens a volume, after so many tries in a row that ended because there was no room.
func (n *Node) openVolumeAfter(name string, tries int) error {
	v, err := newVol(n, name)
	if err != nil {
		return err
	}
	v.tries = tries
	n.mu.Lock()
	stopping := n.ctx.Err() != nil // then nobody else will close it
	if !stopping {
		n.volumes[name] = v
		delete(n.broken, name)
	}
	n.mu.Unlock()
	v.start()
	if stopping {
		return errors.Join(errStopped, v.close())
	}
	n.bump()
	return nil
}

// closeVolumes stops all volumes cleanly, beside each other: one whose disk hangs must not keep the others.
func (n *Node) closeVolumes() error {
	all := n.all()
	errs := make([]error, len(all))
	var closing sync.WaitGroup
	for i, v := range all {
		closing.Go(func() { errs[i] = v.close() })
	}
	closing.Wait()
	return errors.Join(errs...)
}
