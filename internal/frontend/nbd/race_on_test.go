//go:build race

package nbd

// allocsAllowed per 100 requests: the race detector makes pools forget on purpose.
const allocsAllowed = 100
