package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"keelson/internal/api"
	"keelson/internal/cluster"
	"keelson/internal/peer"
	"keelson/internal/vfs"
)

// Every member that was invited has the key of the cluster's CA, so that each renews its own certificate and invites
// others, whoever else is lost (docs/adr/0010). The key alone lets nobody in: see peer.Gate.

// How often a server looks at its certificate and, if it lacks it, asks for the CA's key.
const (
	certCheckMax  = time.Minute
	certCheckMin  = 50 * time.Millisecond
	caAskedEvery  = 2 * time.Second
	certWarnEvery = 24 * time.Hour
)

// ruleNoCAKey: this server can sign nothing.
const ruleNoCAKey = "no-ca-key"

// loadCA reads the CA's key if this server has it.
func (n *Node) loadCA() error {
	keyPEM, err := os.ReadFile(n.cfg.TLS.CAKeyFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("key of the cluster's CA: %w", err)
	}
	return n.takeCA(keyPEM)
}

func (n *Node) takeCA(keyPEM []byte) error {
	certPEM, err := os.ReadFile(n.cfg.TLS.CA)
	if err != nil {
		return err
	}
	ca, err := peer.ParseCA(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("key of the cluster's CA, %s: %w", n.cfg.TLS.CAKeyFile(), err)
	}
	if ca.Cluster != n.id.Cluster {
		return fmt.Errorf("key of the cluster's CA, %s: it is of cluster %s, this server of %s", n.cfg.TLS.CAKeyFile(), ca.Cluster, n.id.Cluster)
	}
	n.ca.Store(ca)
	return nil
}

// keepKeys renews this server's certificate in time, and gets the CA's key from a member if this server was invited and
// lacks it, until ctx ends.
func (n *Node) keepKeys(ctx context.Context) {
	lifetime := time.Duration(n.cfg.TLS.Lifetime)
	every := min(max(lifetime/10, certCheckMin), certCheckMax)
	warned := time.Time{}
	for {
		if n.ca.Load() == nil {
			n.askForCA(ctx)
		}
		ca := n.ca.Load()
		if due(n.id.Leaf().NotBefore, n.id.Leaf().NotAfter, time.Now(), lifetime) || ca != nil && !ca.Signed(n.id.Leaf()) { // the CA was replaced
			if err := n.renew(lifetime); err != nil && time.Since(warned) > certWarnEvery {
				warned = time.Now()
				n.events.Add(api.Event{Level: "warning", Object: "certificate of " + n.cfg.Node, Rule: ruleNoCAKey,
					Message: fmt.Sprintf("it ends at %s and cannot be renewed: %v", n.id.Leaf().NotAfter.UTC().Format(time.RFC3339), err),
					Next:    "servers that know this one by its key let it in all the same; put the CA's key at " + n.cfg.TLS.CAKeyFile()})
			}
		}
		wait := every
		if n.ca.Load() == nil {
			wait = min(wait, caAskedEvery)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// due says whether a certificate is to be renewed: with a third of a lifetime left, and at once if it is out of its time,
// because a clock was wrong then or is now.
func due(from, to, now time.Time, lifetime time.Duration) bool {
	return to.Sub(now) < lifetime/3 || now.Before(from)
}

// renew makes and shows another certificate of the same key.
func (n *Node) renew(lifetime time.Duration) error {
	ca := n.ca.Load()
	if ca == nil {
		return errors.New("this server does not have the key of the cluster's CA")
	}
	certPEM, err := ca.Sign(n.cfg.Node, n.id.Leaf().PublicKey, lifetime)
	if err != nil {
		return err
	}
	if err := cluster.WriteFile(vfs.OS, n.cfg.TLS.Cert, certPEM); err != nil {
		return err
	}
	if err := n.id.Renew(certPEM); err != nil {
		return err
	}
	n.events.Add(api.Event{Level: "info", Object: "certificate of " + n.cfg.Node, Message: "renewed; it ends at " + n.id.Leaf().NotAfter.UTC().Format(time.RFC3339)})
	n.bump()
	return nil
}

// keyAnswer has the key of the CA. It travels between members only, inside TLS with both certificates.
type keyAnswer struct {
	Key []byte `json:"key"` // PEM; empty: this server does not have it
}

// caKeyCame gives a member the CA's key: one that was invited, and so is known by its key.
func (n *Node) caKeyCame(_ context.Context, from string, _ *nothing) (keyAnswer, error) {
	m, _ := n.cluster.Member(from)
	ca := n.ca.Load()
	if ca == nil || m.Removed || m.Admitted != cluster.ByInvite {
		return keyAnswer{}, nil
	}
	key, err := ca.KeyPEM()
	return keyAnswer{key}, err
}

// askForCA asks members for the CA's key, if this server was invited.
func (n *Node) askForCA(ctx context.Context) {
	if m, _ := n.cluster.Member(n.cfg.Node); m.Admitted != cluster.ByInvite || m.Removed {
		return
	}
	for _, p := range n.neighbours() {
		if !p.isUp() {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, gossipTimeout)
		var answer keyAnswer
		err := p.post(limited, "cakey", nothing{}, &answer)
		cancel()
		if err == nil && len(answer.Key) > 0 {
			if err = n.takeCA(answer.Key); err == nil {
				err = cluster.WriteFile(vfs.OS, n.cfg.TLS.CAKeyFile(), answer.Key)
			}
		}
		if err != nil {
			n.log.Warn("the key of the cluster's CA was not got", "peer", p.name, "err", err)
			continue
		}
		if n.ca.Load() != nil {
			return
		}
	}
}
