//go:build !race

package nbd

// allocsAllowed per 100 requests: a collection of garbage may empty the pools.
const allocsAllowed = 2
