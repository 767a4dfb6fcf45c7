//go:build race

package peer

const raceEnabled = true // the race detector makes sync.Pool forget at random
