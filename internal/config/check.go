package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// SocketPathBytesMax is the longest path of a unix socket that Linux takes.
const SocketPathBytesMax = 107

// nodeName is what a server's name looks like, as package peer demands it of certificates.
var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

func isNodeName(s string) bool { return nodeName.MatchString(s) && !strings.Contains(s, "..") }

// Lifetimes of certificates.
const (
	lifetimeMin = Duration(time.Second)
	lifetimeMax = Duration(20 * 365 * 24 * time.Hour)
)

// checker collects problems.
type checker []Problem

func (c *checker) that(ok bool, key, format string, args ...any) {
	if !ok {
		*c = append(*c, Problem{Key: key, Message: fmt.Sprintf(format, args...)})
	}
}

// check finds what is wrong in values that decoded well.
func (a *Agent) check() []Problem {
	var c checker
	c.that(a.Node != "", "node", "missing: the name of this server, as in its certificate")
	c.that(a.Node == "" || isNodeName(a.Node), "node", "%q is no server name: use up to 63 of a-z, 0-9, -, _ and .", a.Node)
	c.that(a.Cluster != "", "cluster", "missing: the cluster's id, as in its certificates")
	c.that(len(a.Cluster) <= 64, "cluster", "longer than 64 bytes")
	c.that(a.State != "", "state", "missing: the directory for the agent's state")
	c.oneOf(a.Encryption, "encryption", On, Off)
	c.oneOf(a.LowLatency, "low-latency", On, Off)
	c.oneOf(a.FlightRecorder, "flight-recorder", On, Off)
	c.oneOf(a.Log.Level, "log.level", "debug", "info", "warn", "error")
	c.oneOf(a.Log.Format, "log.format", "text", "json")
	c.socket(a.API.Socket, "api.socket")
	c.socket(a.NBD.Socket, "nbd.socket")
	c.that(a.API.Socket != a.NBD.Socket, "nbd.socket", "is that of api.socket: each needs its own")
	c.that(!a.NBD.TLS || a.NBD.Address != "", "nbd.tls", "needs nbd.address: a unix socket has no TLS")
	c.that((a.Web.Cert == "") == (a.Web.Key == ""), "web.web-key", "web-cert and web-key belong together: give both or neither")
	c.oneOf(a.Notify.Level, "notify.level", "info", "warning", "error")
	c.webhook(a.Notify.Webhook, "notify.webhook")
	c.that(a.Hooks.Limit >= Duration(100*time.Millisecond) && a.Hooks.Limit <= Duration(time.Hour), "hooks.limit", "%s is not from 100ms to 1h: write it as in \"30s\"", a.Hooks.Limit)
	c.oneOf(a.Device.Attach, "device.attach", AttachAuto, AttachLoop, AttachNBD)
	c.that(a.Device.Directory != "", "device.directory", "missing: the directory of the devices' stable names")
	c.that(a.Device.RestartWait >= Duration(time.Second) && a.Device.RestartWait <= Duration(time.Hour), "device.restart-wait", "%s is not from 1s to 1h", a.Device.RestartWait)
	c.that(a.Device.BlockSize == 512 || a.Device.BlockSize == 4096, "device.block-size", "%d is neither 512 nor 4096", a.Device.BlockSize)
	c.addresses(a)
	c.volumes(a.Volumes)
	c.that(a.TLS.Lifetime >= lifetimeMin && a.TLS.Lifetime <= lifetimeMax, "tls.lifetime", "%s is not from %s to %s: write it as in \"2160h\"", a.TLS.Lifetime, lifetimeMin, lifetimeMax)
	c.limits(&a.Limits)
	return c
}

func (c *checker) oneOf(value, key string, values ...string) {
	c.that(slices.Contains(values, value), key, "%q is none of %q", value, values)
}

func (c *checker) socket(path, key string) {
	c.that(path != "", key, "missing: the path of a unix socket")
	c.that(len(path) <= SocketPathBytesMax, key, "%s has %d bytes: the path of a unix socket may have %d", path, len(path), SocketPathBytesMax)
}

func (c *checker) webhook(text, key string) {
	if text == "" {
		return
	}
	u, err := url.Parse(text)
	c.that(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "", key, "%q is no address of a web server: write it as https://HOST/PATH", text)
}

// addresses checks the forms of all addresses and that no two servers, and no two ports here, have the same one.
func (c *checker) addresses(a *Agent) {
	owner := map[string]string{}
	claim := func(address, key, who string) {
		host, port, err := net.SplitHostPort(address)
		n, convErr := strconv.ParseUint(port, 10, 16)
		if err != nil || convErr != nil || n == 0 {
			c.that(false, key, "%q is no address: write it as HOST:PORT with a port from 1 to 65535", address)
			return
		}
		address = net.JoinHostPort(host, strconv.FormatUint(n, 10))
		other, taken := owner[address]
		c.that(!taken, key, "%s is the address of %s already: two cannot listen on one port", address, other)
		owner[address] = who
	}
	claim(a.Listen.Address, "listen.address", "listen.address")
	if a.NBD.Address != "" {
		claim(a.NBD.Address, "nbd.address", "nbd.address")
	}
	if a.Web.Address != "" {
		claim(a.Web.Address, "web.address", "web.address")
	}
	if a.Metrics.Address != "" {
		claim(a.Metrics.Address, "metrics.address", "metrics.address")
	}
	if a.Listen.Advertise != "" && a.Listen.Advertise != a.Listen.Address {
		claim(a.Listen.Advertise, "listen.advertise", "listen.advertise")
	}
	names := map[string]bool{a.Node: true}
	for i, p := range a.Peers {
		key := fmt.Sprintf("peer[%d]", i)
		c.that(isNodeName(p.Name), key+".name", "%q is no server name: use up to 63 of a-z, 0-9, -, _ and .", p.Name)
		c.that(p.Name == "" || p.Name != a.Node, key+".name", "%q is this server itself: list only the others", p.Name)
		c.that(p.Name == a.Node || !names[p.Name], key+".name", "%q is listed twice", p.Name)
		names[p.Name] = true
		claim(p.Address, key+".address", "peer "+p.Name)
		host, _, _ := net.SplitHostPort(p.Address)
		ip := net.ParseIP(host)
		c.that(ip == nil || !ip.IsUnspecified(), key+".address", "%s is no address that can be reached: name the server", p.Address)
	}
}

// volumeName is what a volume's name looks like, as package api demands it.
var volumeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// dnsName is what a DNS name looks like in lower case, without a dot at its end and without wildcards.
var dnsName = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

const dnsNameBytesMax = 253

// interfaceBytesMax is what the kernel keeps of an interface's name, with a zero at the end.
const interfaceBytesMax = 16

// volumes checks that no two volumes get the same folder, or address.
func (c *checker) volumes(volumes []Volume) {
	names, folders, addresses, services := map[string]bool{}, map[string]string{}, map[netip.Addr]string{}, map[string]string{}
	for i, v := range volumes {
		key := fmt.Sprintf("volume[%d]", i)
		c.that(volumeName.MatchString(v.Name), key+".name", "%q is no volume name: up to 63 letters, digits, '_', '.' and '-', beginning with a letter or digit", v.Name)
		c.that(!names[v.Name], key+".name", "%q is listed twice", v.Name)
		names[v.Name] = true
		c.that(v.Mount != "" || v.MountOptions == "", key+".mount-options", "needs mount: the folder")
		c.that(!strings.ContainsFunc(v.Mount+v.MountOptions, unicode.IsControl), key+".mount", "has control characters")
		if v.ServiceAddress != "" || v.ServiceInterface != "" {
			p, err := netip.ParsePrefix(v.ServiceAddress)
			ip := p.Addr()
			c.that(err == nil && !ip.Is4In6() && !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLoopback(), key+".service-address",
				"%q is no address of a server: write it as in \"192.0.2.10/24\"", v.ServiceAddress)
			c.that(v.ServiceInterface != "" && len(v.ServiceInterface) < interfaceBytesMax && !strings.ContainsAny(v.ServiceInterface, "/: \t"), key+".service-interface",
				"%q is no interface: name the one that is to have the service address, as in \"eth0\"", v.ServiceInterface)
			c.that(err != nil || addresses[ip] == "", key+".service-address", "%s is that of volume %s already", ip, addresses[ip])
			addresses[ip] = v.Name
		}
		if name := strings.ToLower(v.ServiceName); name != "" {
			_, isAddress := netip.ParseAddr(name)
			c.that(dnsName.MatchString(name) && len(name) <= dnsNameBytesMax && isAddress != nil, key+".service-name", "%q is no DNS name: write it as in \"data.example.com\"", v.ServiceName)
			c.that(!strings.HasSuffix(name, ".keelson"), key+".service-name", "%q is a server's name: choose one that does not end with .keelson", v.ServiceName)
			c.that(services[name] == "", key+".service-name", "%s is that of volume %s already", v.ServiceName, services[name])
			services[name] = v.Name
		}
		if v.Mount == "" {
			continue
		}
		c.that(v.Mount != "/", key+".mount", "/ is no folder for it")
		c.that(folders[v.Mount] == "", key+".mount", "%s is the folder of volume %s already", v.Mount, folders[v.Mount])
		folders[v.Mount] = v.Name
	}
}

// limits checks that every limit is set and that they fit each other.
func (c *checker) limits(l *Limits) {
	for _, d := range []struct {
		key      string
		value    Duration
		min, max string
	}{
		{"disk-stall", l.DiskStall, "500ms", "1h"}, {"copies-wait", l.CopiesWait, "100ms", "1h"},
		{"sync-timeout", l.SyncTimeout, "100ms", "10m"}, {"hold-max", l.HoldMax, "100ms", "10m"},
		{"join-wait", l.JoinWait, "0s", "10m"}, {"boot-wait", l.BootWait, "0s", "1h"},
		{"heartbeat", l.Heartbeat, "10ms", "1m"}, {"dead-after", l.DeadAfter, "50ms", "10m"},
		{"handshake-max", l.HandshakeMax, "100ms", "1m"},
		{"retry-min", l.RetryMin, "1ms", "1m"}, {"retry-max", l.RetryMax, "1ms", "10m"},
		{"checkpoint-interval", l.CheckpointEvery, "100ms", "1h"},
		{"salvage-retention", l.SalvageRetention, "0s", "87600h"},
	} {
		var lo, hi Duration
		_, _ = lo.UnmarshalText([]byte(d.min)), hi.UnmarshalText([]byte(d.max))
		c.that(d.value >= lo && d.value <= hi, "limits."+d.key, "%s is not from %s to %s: write it as in \"30s\"", d.value, d.min, d.max)
	}
	for _, s := range []struct {
		key      string
		value    int64
		min, max Size
	}{
		{"queue-bytes", int64(l.QueueBytes), 1 << 20, 1 << 40}, {"in-flight-bytes", int64(l.InFlightBytes), 32 << 20, 1 << 40},
		{"resync-bytes", int64(l.ResyncBytes), 1 << 20, 1 << 40},
	} {
		c.that(s.value >= int64(s.min) && s.value <= int64(s.max), "limits."+s.key, "%s is not from %s to %s", Size(s.value), s.min, s.max)
	}
	for _, s := range []struct {
		key   string
		value Size
	}{{"undo-bytes", l.UndoBytes}, {"salvage-bytes", l.SalvageBytes}} {
		c.that(s.value == 0 || s.value >= 1<<20 && s.value <= 1<<50, "limits."+s.key, "%s is neither 0 nor from 1MiB to 1PiB", s.value)
	}
	c.that(l.SalvageRetention == 0 || l.SalvageRetention >= Duration(time.Minute), "limits.salvage-retention", "%s is less than a minute; 0s means never", l.SalvageRetention)
	for _, n := range []struct {
		key             string
		value, min, max int
	}{
		{"hot-extents-max", l.HotExtentsMax, 16, 1 << 20}, {"requests-max", l.RequestsMax, 1, 1 << 16},
		{"connections-max", l.ConnectionsMax, 1, 1 << 16}, {"handshakes-max", l.HandshakesMax, 1, 1 << 16},
		{"events-max", l.EventsMax, 16, 1 << 20}, {"volumes-max", l.VolumesMax, 1, 1 << 16},
		{"views-max", l.ViewsMax, 0, 1 << 10},
	} {
		c.that(n.value >= n.min && n.value <= n.max, "limits."+n.key, "%d is not from %d to %d", n.value, n.min, n.max)
	}
	c.that(l.DeadAfter >= 2*l.Heartbeat, "limits.dead-after", "%s is less than twice the heartbeat (%s): healthy streams would be ended", l.DeadAfter, l.Heartbeat)
	c.that(l.RetryMax >= l.RetryMin, "limits.retry-max", "%s is less than retry-min (%s)", l.RetryMax, l.RetryMin)
}

// checkFiles finds files that the configuration names and that cannot be read.
func (a *Agent) checkFiles(path string, data []byte) error {
	var c checker
	for _, f := range []struct{ key, path, what string }{
		{"tls.ca", a.TLS.CA, "the certificate of the cluster"},
		{"tls.cert", a.TLS.Cert, "the certificate of this server"},
		{"tls.key", a.TLS.Key, "the private key of this server"},
	} {
		file, err := os.Open(f.path)
		c.that(err == nil, f.key, "%s cannot be read: %v", f.what, err)
		if err == nil {
			_ = file.Close() // only read permission was asked for
		}
	}
	if len(c) > 0 {
		return &Error{path, locate(c, data)}
	}
	return nil
}
