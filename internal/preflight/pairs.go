package preflight

import (
	"math"

	"keelson/internal/api"
)

// From these values on something between two servers is worth a warning.
const (
	offsetSeconds = 1.0
	tripSlow      = 0.005 // seconds: each write of a sync mirror takes it
	bandwidthLow  = 50e6  // bytes a second
)

// pairs is what servers are to each other: each direction for itself where it can differ.
func (j *judge) pairs(servers []Server) {
	for i := range servers {
		for k := range servers {
			if i != k {
				j.reach(&servers[i], &servers[k], i < k)
			}
		}
	}
}

// found is how a reaches b; nil if it was not asked to.
func found(a *Server, b string) *Reach {
	for i := range a.Reach {
		if a.Reach[i].Node == b {
			return &a.Reach[i]
		}
	}
	return nil
}

// reach judges a's way to b. What is the same in both directions is judged once: first, or if the other way is not known.
func (j *judge) reach(a, b *Server, first bool) {
	r := found(a, b.Node)
	if r == nil {
		return
	}
	pair := func(check, format string, args ...any) api.CheckItem {
		i := about(check, a.Node, r.Address, format, args...)
		i.Peer = b.Node
		return i
	}
	i := pair("reachable", "%s reaches %s", a.Node, b.Node)
	if r.Err != "" {
		j.add(i, problem(true, "see that "+a.Node+" can open connections to "+r.Address+" (firewall, routes, address in [[peer]] or node list)", "%s cannot reach %s: %s", a.Node, b.Node, r.Err))
		return
	}
	j.add(i)
	back := found(b, a.Node)
	if first || back == nil || back.Err != "" {
		versions := pair("versions", "both run version %s, protocol %d", a.Version, a.Protocol)
		j.add(versions, warning(a.Version != b.Version, "run the same version on both when the upgrade is done", "%s runs version %s, %s version %s; both speak protocol %d", a.Node, a.Version, b.Node, b.Version, a.Protocol),
			problem(a.Protocol != b.Protocol, "run the same version on both", "%s speaks protocol %d (version %s), %s protocol %d (version %s): there can be no mirror between them", a.Node, a.Protocol, a.Version, b.Node, b.Protocol, b.Version))
		clock := measured(pair("clock", "the clocks differ by %s", seconds(math.Abs(r.Offset))), r.Offset, "seconds")
		j.add(clock, warning(math.Abs(r.Offset)-r.Trip/2 > offsetSeconds, "set the clocks (chrony, systemd-timesyncd): no decision needs it, but times in events, certificates of new servers and people do",
			"the clock of %s is %s %s that of %s", b.Node, seconds(math.Abs(r.Offset)), side(r.Offset), a.Node))
	}
	trip := measured(pair("round-trip", "a message and its answer take %s", seconds(r.Trip)), r.Trip, "seconds")
	j.add(trip, warning(r.Trip > tripSlow, "choose mode async between them if applications cannot wait that long", "a message and its answer take %s: each write of a sync mirror waits for it", seconds(r.Trip)))
	switch {
	case r.LoadErr != "":
		j.add(pair("bandwidth", ""), warning(true, "look at the network between the two", "could not be measured: %s", r.LoadErr))
	case r.Bytes > 0 && r.Seconds > 0:
		rate := float64(r.Bytes) / r.Seconds
		text := bytes(int64(rate)) + "/s over one connection"
		if j.want.SizeBytes > 0 {
			text += "; all " + bytes(j.want.SizeBytes) + " would take " + seconds(math.Ceil(float64(j.want.SizeBytes)/rate))
		}
		j.add(measured(pair("bandwidth", "%s", text), rate, "bytes/s"), warning(rate < bandwidthLow, "if that is less than the network has, look at its links; a first resync takes that long", ""))
	}
}

func side(offset float64) string {
	if offset < 0 {
		return "behind"
	}
	return "ahead of"
}
