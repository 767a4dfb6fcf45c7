package node

import (
	"context"
	"fmt"
	"path/filepath"

	"keelson/internal/cluster"
)

// clusterDir is where the state directory has the cluster's document and the audit.
func (n *Node) clusterDir() string { return filepath.Join(n.cfg.State, clusterDirName) }

const clusterDirName = "cluster"

// openCluster opens what every member has: servers, users, audit.
func (n *Node) openCluster() (err error) {
	n.cluster, err = cluster.Open(n.out.FS, n.clusterDir(), n.cfg.Node, cluster.Options{})
	return err
}

// documentRequest brings a member's cluster document to another; the answer is the other's, after the merge.
type documentRequest struct {
	Document []byte `json:"document"`
}

// auditRequest brings lines of audit, and says which the sender has; the answer has lines that it lacks.
type auditRequest struct {
	Heads map[string]uint64 `json:"heads"`
	Lines []cluster.Line    `json:"lines"`
}

type auditAnswer struct {
	Lines []cluster.Line `json:"lines"`
}

// documentCame merges a peer's document and answers with the result.
func (n *Node) documentCame(_ context.Context, _ string, r *documentRequest) (documentRequest, error) {
	changed, err := n.cluster.Merge(r.Document)
	if err != nil {
		return documentRequest{}, err
	}
	if changed {
		n.bump()
	}
	doc, err := n.cluster.Document()
	return documentRequest{doc}, err
}

// auditCame takes a peer's lines and answers with those that it lacks.
func (n *Node) auditCame(_ context.Context, _ string, r *auditRequest) (auditAnswer, error) {
	if err := n.cluster.AuditMerge(r.Lines); err != nil {
		return auditAnswer{}, err
	}
	lines, err := n.cluster.AuditAfter(r.Heads)
	return auditAnswer{lines}, err
}

// share makes this server and the peer, whose state has just been heard, have the same document and audit. What could
// not be shared is tried again with the next exchange.
func (p *neighbour) share(ctx context.Context, theirs nodeState) error {
	c := p.n.cluster
	if theirs.Document != "" && theirs.Document != c.Digest() {
		mine, err := c.Document()
		if err != nil {
			return err
		}
		var answer documentRequest
		if err := p.post(ctx, "cluster", documentRequest{mine}, &answer); err != nil {
			return err
		}
		changed, err := c.Merge(answer.Document)
		if err != nil {
			return fmt.Errorf("the cluster document of %s: %w", p.name, err)
		}
		if changed {
			p.n.bump()
		}
	}
	heads := c.AuditHeads()
	if theirs.Audit == nil || !differ(heads, theirs.Audit) {
		return nil
	}
	lines, err := c.AuditAfter(theirs.Audit)
	if err != nil {
		return err
	}
	var answer auditAnswer
	if err := p.post(ctx, "audit", auditRequest{heads, lines}, &answer); err != nil {
		return err
	}
	if len(lines) == cluster.AuditBatchMax || len(answer.Lines) == cluster.AuditBatchMax {
		p.kick() // there is more
	}
	return c.AuditMerge(answer.Lines)
}

// differ reports whether one has lines that the other lacks.
func differ(a, b map[string]uint64) bool {
	if len(a) != len(b) {
		return true
	}
	for node, seq := range a {
		if b[node] != seq {
			return true
		}
	}
	return false
}
