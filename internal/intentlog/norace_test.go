//go:build !race

package intentlog

const raceDetector = false
