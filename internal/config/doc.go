// Package config reads the agent's configuration: one TOML file, strict (a key that is not known is an error with its
// line), checked as a whole before anything is started, with every limit named and defaulted in one place.
//
// template.toml is the only text that describes the keys: docs/keelson.toml, `keelson agent --print-config` and the
// demo's files are all rendered from it, and a test holds its commented defaults against Default.
package config
