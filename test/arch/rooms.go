package arch

import "strings"

// bottom are the rooms that know nobody above them.
const (
	block      = "internal/block"
	lineage    = "internal/lineage"
	resync     = "internal/resync"
	switchover = "internal/switchover"
	wire       = "internal/wire"
	mirror     = "internal/mirror"
	vfs        = "internal/vfs"
	intentlog  = "internal/intentlog"
	volume     = "internal/volume"
	peer       = "internal/peer"
	nbd        = "internal/frontend/nbd"
	loop       = "internal/frontend/loop"
	blockdev   = "internal/blockdev"
	attach     = "internal/attach"
	api        = "internal/api"
	config     = "internal/config"
	node       = "internal/node"
	web        = "internal/web"
	awake      = "internal/awake"
	password   = "internal/password"
	cluster    = "internal/cluster"
	journal    = "internal/journal"
	gauges     = "internal/gauges"
	flight     = "internal/flight"
	systemd    = "internal/systemd"
	notify     = "internal/notify"
	hook       = "internal/hook"
	address    = "internal/address"
	preflight  = "internal/preflight"
	probe      = "internal/probe"
)

// entrances says for each room which other rooms it may enter (import). A room's own subfolders belong to it. A room
// that is not in the table fails TestRooms: whoever builds one decides here, in one line, who may enter it.
var entrances = map[string][]string{
	block:           {},
	lineage:         {},
	resync:          {block, lineage},
	switchover:      {lineage},
	wire:            {lineage},
	mirror:          {lineage, switchover},
	vfs:             {block},
	intentlog:       {block, lineage, vfs},
	"internal/undo": {block, lineage, vfs},
	// A volume knows Streams only through its own small interface: no peer here, and no socket (see noSockets).
	// What it tells its owner are events of the mirror machine; it decides nothing.
	volume: {block, lineage, resync, wire, mirror, vfs, intentlog, "internal/undo"},
	peer:   {block, lineage, wire},
	// A frontend knows nothing of mirrors.
	nbd:                           {block},
	loop:                          {block, blockdev},
	"internal/frontend/nbdkernel": {blockdev},
	blockdev:                      {},
	// The kernel's devices of a volume: made, named, torn down. It knows nothing of roles either.
	attach: {block, vfs, loop, "internal/frontend/nbdkernel", blockdev},
	api:    {lineage},
	config: {},
	awake:  {},
	// What every member has. How it travels is the node's.
	password: {},
	cluster:  {vfs, password},
	journal:  {api, vfs},
	// The page knows the cluster only by the control interface; users are what every member has.
	web:     {api, config, cluster, password},
	gauges:  {api},
	flight:  {},
	systemd: {},
	notify:  {api},
	hook:    {},
	address: {},
	// May this server be rebooted, would a volume work: decided by what was seen.
	preflight: {api, lineage},
	probe:     {preflight, blockdev, vfs},
	// The node puts the rooms together; only commands stand above it.
	node:            {block, lineage, resync, switchover, wire, mirror, vfs, intentlog, "internal/undo", volume, peer, nbd, loop, "internal/frontend/nbdkernel", attach, blockdev, api, config, awake, cluster, password, journal, gauges, flight, systemd, notify, hook, address, preflight, probe, web},
	"internal/cli":  {api, config, node, peer},
	"internal/demo": {api, config, node, peer},
	"cmd/keelson": {block, lineage, resync, switchover, wire, mirror, vfs, intentlog, volume, peer, nbd, loop, "internal/frontend/nbdkernel", attach, blockdev, api, config, node,
		"internal/cli", "internal/demo"},
	"test/arch":    {},
	"tools":        {},
	"tools/apidoc": {api},
	"test/vm":      {peer, config},
	"test/web":     {api, web},
	"test/e2e":     {api, nbd, hook},
	"test/soak":    {api, nbd},
	"internal/sim": {block, lineage, resync, switchover, wire, mirror, vfs, intentlog, "internal/undo", volume, peer, nbd, api, config, node},
}

// pure are the rooms whose every decision follows from their arguments.
var pure = []string{lineage, resync, mirror, switchover, wire, preflight}

// impurePackages may not be imported by a pure room; a name stands for everything below it too.
var impurePackages = []string{"os", "net", "sync", "log", "math/rand", "crypto/rand", "syscall", "io/fs", "io/ioutil", "golang.org/x/sys", "runtime", "unsafe"}

// impureTime are the functions of package time that ask the clock or wait for it. Time arrives in events.
var impureTime = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// noSockets are the rooms in which package net is forbidden although they are not pure.
var noSockets = []string{block, vfs, intentlog, volume}

// vague are names that say nothing about what a package is for.
var vague = []string{"types", "common", "util", "utils", "helpers", "misc", "base", "shared"}

// roomOf returns the room that a package belongs to: itself or the nearest folder above it that is in the table; "" if none.
func roomOf(pkg string) string {
	for p := pkg; p != "" && p != "."; {
		if _, ok := entrances[p]; ok {
			return p
		}
		i := strings.LastIndexByte(p, '/')
		if i < 0 {
			return ""
		}
		p = p[:i]
	}
	return ""
}

// below reports whether the import path is that package or below it.
func below(path, pkg string) bool { return path == pkg || strings.HasPrefix(path, pkg+"/") }
