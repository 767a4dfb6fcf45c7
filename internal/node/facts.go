package node

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"keelson/internal/api"
	"keelson/internal/awake"
	"keelson/internal/config"
	"keelson/internal/frontend/loop"
	"keelson/internal/frontend/nbdkernel"
	"keelson/internal/preflight"
	"keelson/internal/probe"
	"keelson/internal/wire"
)

// Limits of what one server measures.
const (
	pings            = 8
	loadChunkBytes   = 8 << 20  // of one request
	loadBytesMax     = 64 << 20 // to one server
	loadsAtOnce      = 4        // that this server takes from others
	loadWait         = 5 * time.Second
	filesBesides     = 1024 // open files that do not depend on the configuration: the page, control connections, logs
	filesForEachCopy = 16
)

// pingAnswer is what a server says to measure the way to it.
type pingAnswer struct {
	Node     string    `json:"node"`
	Version  string    `json:"version"`
	Protocol int       `json:"protocol"`
	Now      time.Time `json:"now"`
}

func (n *Node) pingCame(context.Context, string, *nothing) (pingAnswer, error) {
	return pingAnswer{n.cfg.Node, n.version, wire.Version, time.Now()}, nil
}

// factsCame finds out what a check wants to know of this server. One at a time: what is looked at may hang.
func (n *Node) factsCame(ctx context.Context, _ string, r *factsRequest) (preflight.Server, error) {
	select {
	case n.checking <- struct{}{}:
	case <-ctx.Done():
		return preflight.Server{}, errors.New("another check is under way, or waits for a disk that does not answer")
	}
	s := preflight.Server{Node: n.cfg.Node, Version: n.version, Protocol: wire.Version}
	done := make(chan struct{})
	n.spawn(func() {
		defer func() { <-n.checking }()
		n.lookAround(r, &s)
		close(done)
	})
	select {
	case <-done:
	case <-ctx.Done():
		return preflight.Server{}, errors.New("its disks have not answered in time")
	}
	for _, name := range r.Peers {
		if ctx.Err() != nil {
			break
		}
		s.Reach = append(s.Reach, n.reachOf(ctx, name, time.Duration(r.LoadMillis)*time.Millisecond))
	}
	return s, nil
}

// lookAround is the part that touches disks.
func (n *Node) lookAround(r *factsRequest, s *preflight.Server) {
	s.State = probe.Folder(n.out.FS, n.cfg.State, r.Quick)
	copies := n.all()
	for _, a := range copies {
		_, salvage := undoStatus(a.v.Status(now()).Undo)
		s.State.WantBytes += max(0, n.volumeLimits().KeepBytes(a.v.Size())-a.v.UndoStatus().Bytes-salvage.Bytes)
		if r.Volume != "" && r.Volume != a.name || r.Volume == "" && r.Path != "" {
			continue
		}
		d := probe.Disk(a.v.Header().Backing.Path, n.cfg.State, a.device.Status().Device, true, r.Quick)
		d.Volume = a.name
		s.Disks = append(s.Disks, d)
		s.Services = append(s.Services, n.servicesOf(a.name)...)
	}
	if r.Path != "" {
		d := probe.Disk(r.Path, n.cfg.State, "", false, r.Quick)
		for _, a := range copies {
			if a.v.Header().Backing.Path == r.Path {
				d.InUse = "it holds the copy of volume " + a.name
			}
		}
		s.State.WantBytes += n.volumeLimits().KeepBytes(max(r.SizeBytes, d.SizeBytes))
		s.Disks = append(s.Disks, d)
	}
	l := n.cfg.Limits
	s.Files = preflight.Limit{Have: probe.Files(), Want: uint64(filesBesides + filesForEachCopy*l.VolumesMax + l.ConnectionsMax + l.HandshakesMax)}
	s.AwakeOff = n.cfg.LowLatency == config.Off
	s.Awake, s.Loop, s.NBD = words(awake.Check(awake.Device)), words(loop.Supported()), words(nbdkernel.Supported())
	s.CertEnds, s.CAEnds, s.CAKey = n.id.Leaf().NotAfter, n.id.CAEnds(), n.ca.Load() != nil
}

func words(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// reachOf measures the way to another server.
func (n *Node) reachOf(ctx context.Context, name string, load time.Duration) preflight.Reach {
	p := n.peer(name)
	if p == nil {
		return preflight.Reach{Node: name, Err: errNoMember.Error()}
	}
	r := preflight.Reach{Node: name, Address: p.addr}
	for i := range pings {
		limited, cancel := context.WithTimeout(ctx, gossipTimeout)
		var theirs pingAnswer
		before := time.Now()
		err := p.post(limited, "ping", nothing{}, &theirs)
		trip := time.Since(before)
		cancel()
		if err == nil && theirs.Node != name {
			err = fmt.Errorf("%s answers as %q", p.addr, theirs.Node)
		}
		if err != nil {
			r.Err = err.Error()
			return r
		}
		if i == 0 || trip.Seconds() < r.Trip { // the first one has the handshake in it
			r.Trip, r.Offset = trip.Seconds(), theirs.Now.Sub(before.Round(0)).Seconds()-trip.Seconds()/2
		}
		r.Version, r.Protocol = theirs.Version, theirs.Protocol
	}
	if load > 0 {
		var took time.Duration
		var err error
		if r.Bytes, took, err = p.load(ctx, load); err != nil {
			r.LoadErr = err.Error()
		}
		r.Seconds = took.Seconds()
	}
	return r
}

// load sends data that nobody keeps for about that long, and says how much arrived in which time.
func (p *neighbour) load(ctx context.Context, d time.Duration) (sent int64, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, d+loadWait)
	defer cancel()
	data := make([]byte, 64<<10)
	_, _ = rand.Read(data) // never fails
	begin := time.Now()
	for time.Since(begin) < d && sent < loadBytesMax {
		body := &loadReader{data: data, left: loadChunkBytes, until: begin.Add(d)}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+p.addr+"/peer/v1/load", body)
		if err != nil {
			return 0, 0, err
		}
		response, err := p.http.Do(request)
		if err != nil {
			return 0, 0, err
		}
		var answer loadAnswer
		err = json.NewDecoder(io.LimitReader(response.Body, 1<<10)).Decode(&answer)
		err = errors.Join(err, response.Body.Close())
		if response.StatusCode != http.StatusOK || err != nil {
			return 0, 0, fmt.Errorf("%s answered %s", p.name, response.Status)
		}
		sent += answer.Bytes
	}
	return sent, time.Since(begin), nil
}

// loadReader gives the same data again and again, up to a number of bytes and a time.
type loadReader struct {
	data  []byte
	left  int
	until time.Time
}

func (l *loadReader) Read(p []byte) (int, error) {
	if l.left == 0 || time.Now().After(l.until) {
		return 0, io.EOF
	}
	k := copy(p[:min(len(p), l.left)], l.data)
	l.left -= k
	return k, nil
}

// loadAnswer says how much arrived.
type loadAnswer struct {
	Bytes int64 `json:"bytes"`
}

// takeLoad takes what load sends, and throws it away.
func (n *Node) takeLoad(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	select {
	case n.loads <- struct{}{}:
		defer func() { <-n.loads }()
	default:
		w.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(w).Encode(api.ErrorDocument{Error: api.Errorf(api.Failed, "load", "%d measurements are under way already", cap(n.loads))})
		return
	}
	got, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, loadChunkBytes))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	_ = json.NewEncoder(w).Encode(loadAnswer{got})
}
