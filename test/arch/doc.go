// Package arch has the project's rules as tests: who may import whom, what the pure rooms may not know, how large a
// file may grow, and that the documents speak only of what exists. Nothing here is part of the product.
package arch
