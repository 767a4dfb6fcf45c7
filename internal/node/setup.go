package node

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"keelson/internal/api"
	"keelson/internal/cluster"
	"keelson/internal/config"
	"keelson/internal/peer"
	"keelson/internal/vfs"
)

// Setup says how a server is to be set up: the first of a cluster, or one that joins.
type Setup struct {
	Name    string
	Address string // HOST:PORT by which the others reach it
	Listen  string // HOST:PORT on which it listens; "": Address
	Dir     string // of the configuration and the certificates
	State   string // of what the agent has to remember
	Run     string // of the sockets
}

// Made says what Init or Join has made.
type Made struct {
	Cluster     string `json:"cluster"`
	Node        string `json:"node"`
	Config      string `json:"config"`
	Fingerprint string `json:"fingerprint"` // SHA-256 of the CA's certificate
}

const (
	configFile  = "keelson.toml"
	ruleAlready = "already-set-up"
)

func (o Setup) path(name string) string { return filepath.Join(o.Dir, name) }

// check finds what is wrong, and what is in the way.
func (o *Setup) check() error {
	if err := peer.CheckNodeName(o.Name); err != nil {
		return api.Errorf(api.Usage, "", "%v", err).WithNext("give the server another name: --name")
	}
	if err := cluster.CheckAddress(o.Address); err != nil {
		return api.Errorf(api.Usage, "node "+o.Name, "%v", err).WithNext("say by which address the others reach this server: --address HOST:PORT")
	}
	if o.Listen == "" {
		o.Listen = o.Address
	}
	for _, dir := range []*string{&o.Dir, &o.State, &o.Run} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return api.Errorf(api.Usage, "", "%v", err)
		}
		*dir = abs
	}
	for _, name := range []string{configFile, peer.CertFile, peer.CAFile, peer.CAKeyFile} {
		if _, err := os.Lstat(o.path(name)); !errors.Is(err, fs.ErrNotExist) {
			return api.Refusal(ruleAlready, "node "+o.Name, o.path(name)+" is there already: this server is set up", "choose another directory (--dir), or move what is there away")
		}
	}
	return nil
}

// Init makes a cluster: its CA, and its first server.
func Init(o Setup) (*Made, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	ca, err := peer.NewCA()
	if err != nil {
		return nil, api.Errorf(api.Failed, "cluster", "%v", err)
	}
	keyPEM, err := o.serverKey()
	if err != nil {
		return nil, o.failed(err)
	}
	request, err := peer.MakeRequest(keyPEM)
	if err != nil {
		return nil, o.failed(err)
	}
	key, id, err := peer.ReadRequest(request)
	if err != nil {
		return nil, o.failed(err)
	}
	certPEM, err := ca.Sign(o.Name, key, time.Duration(config.Default().TLS.Lifetime))
	if err != nil {
		return nil, o.failed(err)
	}
	caKey, err := ca.KeyPEM()
	if err != nil {
		return nil, o.failed(err)
	}
	lock, err := o.freshState()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	err = o.withStore(func(s *cluster.Store) error {
		return s.SetMember(cluster.Member{Name: o.Name, Address: o.Address, Keys: []string{id}, Admitted: cluster.ByInvite})
	})
	if err == nil {
		err = o.write(peer.CAKeyFile, caKey)
	}
	if err == nil {
		err = o.finish(ca.Cluster, config.On, ca.PEM(), certPEM)
	}
	if err != nil {
		return nil, o.failed(err)
	}
	return o.made(ca.Cluster, ca.Fingerprint()), nil
}

// Join makes this server a member by a token. A name in o is of account only if the token has none. If the answer is lost
// it can be called again: the same key is admitted by the same token.
func Join(ctx context.Context, o Setup, text string) (*Made, error) {
	token, err := cluster.ParseToken(text)
	if err != nil {
		return nil, api.Errorf(api.Usage, "token", "%v", err)
	}
	if token.Name != "" {
		o.Name = token.Name
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	keyPEM, err := o.serverKey()
	if err != nil {
		return nil, o.failed(err)
	}
	csr, err := peer.MakeRequest(keyPEM)
	if err != nil {
		return nil, o.failed(err)
	}
	request, err := json.Marshal(joinRequest{Version: joinVersion, Secret: token.Secret[:], Name: o.Name, Address: o.Address, Request: csr})
	if err != nil {
		return nil, o.failed(err)
	}
	data, err := peer.Join(ctx, token.Address, peer.Pin{CA: token.CA, Key: token.Key}, request, peer.Options{})
	if err != nil {
		return nil, api.Errorf(api.Failed, "node "+o.Name, "%v", err)
	}
	var answer joinAnswer
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, api.Errorf(api.Failed, "node "+o.Name, "the answer of %s cannot be understood: %v", token.Address, err)
	}
	if answer.Error != nil {
		return nil, answer.Error
	}
	id, err := peer.NewIdentity(answer.CA, answer.Certificate, keyPEM)
	if err != nil {
		return nil, api.Errorf(api.Failed, "node "+o.Name, "the certificate that %s gave: %v", token.Address, err)
	}
	lock, err := o.freshState()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	err = o.withStore(func(s *cluster.Store) error {
		_, err := s.Merge(answer.Document)
		return err
	})
	if err == nil {
		err = o.finish(id.Cluster, answer.Encryption, answer.CA, answer.Certificate)
	}
	if err != nil {
		return nil, o.failed(err)
	}
	return o.made(id.Cluster, token.CA), nil
}

func (o *Setup) failed(err error) error { return api.Errorf(api.Failed, "node "+o.Name, "%v", err) }

func (o *Setup) made(cluster string, fingerprint [32]byte) *Made {
	return &Made{Cluster: cluster, Node: o.Name, Config: o.path(configFile), Fingerprint: hex.EncodeToString(fingerprint[:])}
}

// serverKey makes the server's private key, which never leaves it; one of an earlier attempt is used again.
func (o *Setup) serverKey() (keyPEM []byte, err error) {
	if err := vfs.OS.MkdirAll(o.Dir); err != nil {
		return nil, err
	}
	keyPEM, err = os.ReadFile(o.path(peer.KeyFile))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return keyPEM, err
	}
	if _, keyPEM, err = peer.NewKey(); err != nil {
		return nil, err
	}
	return keyPEM, o.write(peer.KeyFile, keyPEM)
}

// freshState locks the state directory and puts the document and audit of an earlier life aside.
func (o *Setup) freshState() (vfs.File, error) {
	lock, err := lockState(o.State)
	if err != nil {
		return nil, o.failed(err)
	}
	dir := filepath.Join(o.State, clusterDirName)
	if _, err := os.Lstat(dir); err == nil {
		err = vfs.OS.Rename(dir, fmt.Sprintf("%s.%d", dir, time.Now().Unix()))
		if err == nil {
			err = vfs.OS.SyncDir(o.State)
		}
		if err != nil {
			return nil, errors.Join(o.failed(err), lock.Close())
		}
	}
	return lock, nil
}

func (o *Setup) withStore(change func(*cluster.Store) error) error {
	s, err := cluster.Open(vfs.OS, filepath.Join(o.State, clusterDirName), o.Name, cluster.Options{})
	if err != nil {
		return err
	}
	return errors.Join(change(s), s.Close())
}

func (o *Setup) write(name string, data []byte) error {
	return cluster.WriteFile(vfs.OS, o.path(name), data)
}

// finish writes the certificates and, last of all, the configuration.
func (o *Setup) finish(clusterID, encryption string, caPEM, certPEM []byte) error {
	c := config.Default()
	c.Node, c.Cluster, c.Encryption, c.State, c.Listen.Address = o.Name, clusterID, encryption, o.State, o.Listen
	if o.Listen != o.Address {
		c.Listen.Advertise = o.Address
	}
	c.API.Socket, c.NBD.Socket = filepath.Join(o.Run, "agent.sock"), filepath.Join(o.Run, "nbd.sock")
	c.TLS.CA, c.TLS.Cert, c.TLS.Key = o.path(peer.CAFile), o.path(peer.CertFile), o.path(peer.KeyFile)
	text := config.Render(c)
	if _, err := config.Parse(o.path(configFile), text); err != nil {
		return err
	}
	if err := o.write(peer.CAFile, caPEM); err != nil {
		return err
	}
	if err := o.write(peer.CertFile, certPEM); err != nil {
		return err
	}
	return o.write(configFile, text)
}
