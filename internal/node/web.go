package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"syscall"

	"keelson/internal/api"
	"keelson/internal/web"
)

// page is the running page of this agent.
type page struct {
	web    *web.Server
	server *http.Server
	url    string
}

// openPage serves the page, if the configuration gives it an address.
func (n *Node) openPage(ctx context.Context) error {
	address := n.cfg.Web.Address
	if address == "" {
		return nil
	}
	certificate := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return n.id.Shown(), nil }
	if n.cfg.Web.Cert != "" {
		own, err := tls.LoadX509KeyPair(n.cfg.Web.Cert, n.cfg.Web.Key)
		if err != nil {
			return fmt.Errorf("certificate of the page: %w; see [web] in the configuration", err)
		}
		certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &own, nil }
	}
	var l net.Listener
	err := patiently(ctx, syscall.EADDRINUSE, func() (err error) { l, err = net.Listen("tcp", address); return err })
	if err != nil {
		return fmt.Errorf("web address %s: %w; choose a free one", address, err)
	}
	p := &page{url: "https://" + n.shownAddress(address) + "/"}
	p.web = web.New(web.Options{Service: &service{n}, Users: web.StoreUsers(n.cluster), Cluster: n.id.Cluster, Node: n.cfg.Node,
		Sessions: filepath.Join(n.cfg.State, "web", "sessions.json"), Audit: n.noteAudit, Log: n.log})
	p.server = p.web.HTTP()
	p.server.TLSConfig = &tls.Config{GetCertificate: certificate, MinVersion: tls.VersionTLS12}
	p.server.ErrorLog = slog.NewLogLogger(n.log.Handler(), slog.LevelDebug)
	n.mu.Lock()
	n.page = p
	n.mu.Unlock()
	n.spawn(func() { _ = p.server.ServeTLS(web.Limit(l), "", "") }) // ends with closePage
	return nil
}

// shownAddress is where others reach a port that listens on all addresses: that of the configured host.
func (n *Node) shownAddress(address string) string {
	host, port, _ := net.SplitHostPort(address)
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return address
	}
	other, _, _ := net.SplitHostPort(n.cfg.Listen.Address)
	if ip := net.ParseIP(other); other == "" || ip != nil && ip.IsUnspecified() {
		other = n.cfg.Node
	}
	return net.JoinHostPort(other, port)
}

// closePage ends the page and waits for what it began.
func (n *Node) closePage() error {
	if n.page == nil {
		return nil
	}
	n.page.web.Close()
	return errors.Join(n.page.server.Close())
}

// pageURL is where this agent's page is; "" if it has none.
func (n *Node) pageURL() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.page == nil {
		return ""
	}
	return n.page.url
}

// WebLink implements api.Service.
func (s *service) WebLink(context.Context) (*api.WebLink, error) {
	s.n.mu.Lock()
	p := s.n.page
	s.n.mu.Unlock()
	if p == nil {
		return nil, api.Errorf(api.Failed, "node "+s.n.cfg.Node, "has no page").WithNext("set address under [web] in its configuration and start it again")
	}
	return p.web.NewLink(p.url)
}
