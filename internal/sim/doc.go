// Package sim is a cluster of two to five servers in one process, from a seed: the real code of node, mirror, lineage,
// resync, switchover, intentlog, undo, volume and peer (TLS included) stands on file systems and a network in memory that
// lose power, fail, fill up, delay and cut, while clients write and administrators do the wrong thing at the wrong time. Time
// is that of a testing/synctest bubble. Everything is in tests; nothing of it is in a binary.
//
// Run one history: go test ./internal/sim -run TestSimulation -args -seed=N. It prints the story if a guarantee breaks, and
// with -story always.
//
// What a seed decides: the servers, the volume's modes, every fault, delay and command, and at which I/O of which server it
// dies. It does not decide in which order goroutines run that can run at the same moment, nor random ids; so a
// seed mostly, but not always, repeats its history. docs/GUARANTEES.md says how often.
package sim
