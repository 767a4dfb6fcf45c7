//go:build race

package resync_test

const raceOn = true
