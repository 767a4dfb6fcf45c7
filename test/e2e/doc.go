// Package e2e tests Keelson from outside, as its users see it: the built binary, its command line, its exit codes and
// JSON (docs and CONTRACT), its NBD export with clients that others wrote, and its processes killed with SIGKILL.
//
// A cluster is a folder with one folder for each server (its configuration, sockets, log and copy), made by
// `keelson demo` or by hand for more than three servers. A follower is an application that keeps using a volume
// wherever its source is, and knows what each block may contain. Conditions are waited for with deadlines; nothing
// sleeps a fixed time. Every test ends the processes that it started, by their ids.
//
// Three applications know more than a device can tell: a follower what each block may contain; a historian when each
// request of several clients began and ended, for porcupine; an ancestry which write each write replaced, so that it can
// tell what was lost from what was replaced.
//
// Flags, after -args: -switchovers=200 for the long form of the random test, -kill-minutes=10 for that of the tests that
// kill agents at random, -race-binary for agents with the race detector, -update to rewrite the README's tour, -keep to
// leave the folders of clusters where they are and to tell the story of what was killed also if nothing failed.
package e2e
