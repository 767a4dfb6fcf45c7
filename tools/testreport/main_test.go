package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	in := `go: something the tool says
{"Action":"output","Package":"p","Test":"TestA","Output":"quiet\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"why B failed\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"skip","Package":"p","Test":"TestC"}
{"Action":"fail","Package":"p"}
{"Action":"build-output","ImportPath":"q","Output":"q.go:1: wrong\n"}
{"Action":"build-fail","ImportPath":"q"}
{"Action":"fail","Package":"q"}
{"Action":"skip","Package":"nothing"}
`
	var out strings.Builder
	r, err := read(strings.NewReader(in), &out)
	if err != nil {
		t.Fatal(err)
	}
	if r.passed != 1 || r.failed != 2 || r.skipped != 1 {
		t.Errorf("counted %+v, want 1 passed, 2 failed (a test, a build), 1 skipped", r)
	}
	want := "go: something the tool says\nwhy B failed\nSKIP  p TestC\nFAIL  p\nq.go:1: wrong\nFAIL  q\n"
	if out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}
