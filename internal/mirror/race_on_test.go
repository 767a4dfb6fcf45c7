//go:build race

package mirror

const raceOn = true
