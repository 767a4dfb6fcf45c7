package main

import (
	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func volumeCommand(a *app) *cobra.Command {
	return group("volume", "Makes, shows, attaches and deletes volumes", volumeCreate(a), volumeList(a), volumeShow(a), volumeSet(a), volumeAccept(a), volumeAttach(a), volumeDetach(a), volumeDelete(a))
}

// find is the volume in the status, or an error that says which there are.
func find(s *api.Status, name string) (*api.VolumeStatus, error) {
	names := "there is none here"
	for i := range s.Volumes {
		if s.Volumes[i].Name == name {
			return &s.Volumes[i], nil
		}
		if i == 0 {
			names = "there are: " + s.Volumes[i].Name
		} else {
			names += ", " + s.Volumes[i].Name
		}
	}
	return nil, api.Errorf(api.Failed, "volume "+name, "agent %s knows no volume of this name (%s)", s.Node, names).
		WithNext("see keelson volume list, or ask another agent (--socket)")
}
