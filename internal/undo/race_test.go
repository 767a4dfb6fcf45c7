//go:build race

package undo

const raceDetector = true
