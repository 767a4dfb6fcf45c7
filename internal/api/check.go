package api

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// volumeName is what a volume's name looks like: it is a directory and an NBD export too.
var volumeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// MirrorActions are the values of MirrorChange.Action.
var MirrorActions = []string{"add", "set", "pause", "continue", "break", "resync", "remove"}

// TargetsMax is the most targets of one volume.
const TargetsMax = 64

// ParsePlace reads NODE:PATH.
func ParsePlace(s string) (Place, error) {
	node, path, ok := strings.Cut(s, ":")
	p := Place{node, path}
	if !ok || node == "" || path == "" {
		return p, Errorf(Usage, "", "%q is no place: write it as NODE:PATH, such as a:/dev/vg0/data", s)
	}
	return p, p.check()
}

func (p Place) check() error {
	if p.Node == "" || strings.ContainsAny(p.Node, "/: ") {
		return Errorf(Usage, "", "%q is no server's name", p.Node)
	}
	if !filepath.IsAbs(p.Path) {
		return Errorf(Usage, "", "path %q on server %s is not absolute", p.Path, p.Node)
	}
	return nil
}

// CheckVolumeName finds what is wrong with a volume's name: it is a directory and an NBD export too.
func CheckVolumeName(name string) error { return checkVolume(name) }

func checkVolume(name string) error {
	if !volumeName.MatchString(name) {
		return Errorf(Usage, "", "%q is no volume name: up to 63 letters, digits, '_', '.' and '-', beginning with a letter or digit", name)
	}
	return nil
}

func checkMode(mode string) error {
	if mode != "sync" && mode != "async" {
		return Errorf(Usage, "", "mode %q is neither sync nor async", mode)
	}
	return nil
}

// Check finds what is wrong in the request without knowing anything else.
func (r CreateVolume) Check() error {
	if err := checkVolume(r.Name); err != nil {
		return err
	}
	if r.Mode != "" {
		if err := checkMode(r.Mode); err != nil {
			return err
		}
	}
	if r.SizeBytes < 0 || r.SizeBytes%512 != 0 {
		return Errorf(Usage, "volume "+r.Name, "the size of %d bytes is no multiple of 512", r.SizeBytes)
	}
	if len(r.Targets) > TargetsMax {
		return Errorf(Usage, "volume "+r.Name, "%d targets are more than %d", len(r.Targets), TargetsMax)
	}
	nodes := []string{}
	for _, p := range append([]Place{r.Source}, r.Targets...) {
		if err := p.check(); err != nil {
			return err
		}
		if slices.Contains(nodes, p.Node) {
			return Errorf(Usage, "volume "+r.Name, "server %s is named twice: one server has one copy", p.Node)
		}
		nodes = append(nodes, p.Node)
	}
	if r.MinCopies == 0 {
		return nil
	}
	most := 1
	if r.Mode != "async" {
		most += len(r.Targets)
	}
	return checkCopies("volume "+r.Name, r.MinCopies, most)
}

// checkCopies holds min-copies against the number of copies that a write could be on.
func checkCopies(object string, n, most int) error {
	if n < 1 || n > most {
		return Errorf(Usage, object, "min-copies %d is not possible: it is 1 to %d (the source and its sync targets)", n, most)
	}
	return nil
}

// Check finds what is wrong in the request without knowing anything else.
func (r VolumeChange) Check() error {
	if r.MinCopies == nil && r.HoldOldCopies == nil && !r.Accept {
		return Errorf(Usage, "volume "+r.Name, "nothing to set")
	}
	if r.MinCopies != nil {
		if err := checkCopies("volume "+r.Name, *r.MinCopies, TargetsMax+1); err != nil {
			return err
		}
	}
	return checkVolume(r.Name)
}

// Check finds what is wrong in the request without knowing anything else.
func (r DeleteVolume) Check() error { return checkVolume(r.Name) }

// Check finds what is wrong in the request without knowing anything else.
func (r Switchover) Check() error {
	if r.To == "" {
		return Errorf(Usage, "volume "+r.Volume, "no server to switch over to")
	}
	if r.Unmount && r.Freeze {
		return Errorf(Usage, "volume "+r.Volume, "a file system is unmounted or frozen, not both")
	}
	return checkVolume(r.Volume)
}

// Check finds what is wrong in the request without knowing anything else.
func (q EventsQuery) Check() error {
	if q.Limit < 0 {
		return Errorf(Usage, "", "a limit of %d events", q.Limit)
	}
	if q.Level != "" && !slices.Contains(EventLevels, q.Level) {
		return Errorf(Usage, "", "level %q is none of %s", q.Level, strings.Join(EventLevels, ", "))
	}
	if q.All && (q.Follow || q.After > 0) {
		return Errorf(Usage, "", "events of all servers have no common numbers: they can be neither followed nor continued")
	}
	return nil
}

// EventLevels are the values of Event.Level, the gravest last.
var EventLevels = []string{"info", "warning", "error"}

// Fits reports whether the query asks for that event; Limit and Follow aside.
func (q EventsQuery) Fits(e Event) bool {
	return e.Seq > q.After && (q.Volume == "" || e.Volume == q.Volume) && (q.Rule == "" || e.Rule == q.Rule) &&
		!e.Time.Before(q.Since) && slices.Index(EventLevels, e.Level) >= slices.Index(EventLevels, q.Level)
}

// Check finds what is wrong in the request without knowing anything else.
func (r MirrorChange) Check() error {
	if err := checkVolume(r.Volume); err != nil {
		return err
	}
	object := "mirror to " + r.Target + " of " + r.Volume
	set := r.QueueBytes != nil || r.RateBytes != nil || r.ResyncRate != nil
	switch {
	case !slices.Contains(MirrorActions, r.Action):
		return Errorf(Usage, object, "action %q is none of %s", r.Action, strings.Join(MirrorActions, ", "))
	case r.Target == "":
		return Errorf(Usage, "volume "+r.Volume, "no target is named")
	case r.Path != "" && r.Action != "add":
		return Errorf(Usage, object, "only add takes a path")
	case r.Mode != nil && r.Action != "add" && r.Action != "set" || set && r.Action != "set" && r.Action != "add":
		return Errorf(Usage, object, "only add and set change mode and limits")
	case r.Action == "set" && r.Mode == nil && !set:
		return Errorf(Usage, object, "nothing to set")
	}
	if r.Action == "add" {
		if err := (Place{r.Target, r.Path}).check(); err != nil {
			return err
		}
	}
	if r.Mode != nil {
		if err := checkMode(*r.Mode); err != nil {
			return err
		}
	}
	for _, limit := range []*int64{r.QueueBytes, r.RateBytes, r.ResyncRate} {
		if limit != nil && *limit < 0 {
			return Errorf(Usage, object, "a limit of %d bytes", *limit)
		}
	}
	return nil
}
