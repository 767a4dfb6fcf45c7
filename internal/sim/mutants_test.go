package sim

import (
	"testing"

	"keelson/internal/node"
)

// mutant is a protection that is left out, to show that the checkers notice.
type mutant struct {
	name  string
	apply func(*node.Outside)
}

var mutants = []*mutant{}

func mutantNamed(t *testing.T, name string) *mutant {
	if name == "" {
		return nil
	}
	for _, m := range mutants {
		if m.name == name {
			return m
		}
	}
	t.Fatalf("no mutant is called %q", name)
	return nil
}
