//go:build !race

package volume

const raceFactor = 0
