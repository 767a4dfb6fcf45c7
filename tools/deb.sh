#!/usr/bin/env bash
# Builds keelson_VERSION_ARCH.deb for each architecture into DIR: deb.sh DIR [ARCH...] (default amd64 arm64).
# The same commit gives the same bytes: times are the commit's, paths are trimmed.
# Environment: VERSION of the package; SOURCE, a folder with another commit of this project whose program is packed instead.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: deb.sh DIR [ARCH...]}
shift
[ $# -gt 0 ] || set -- amd64 arm64
mkdir -p "$out"
SOURCE=$(cd "${SOURCE:-.}" && pwd)
VERSION=${VERSION:-$(git describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//' || true)}
[ -n "$VERSION" ] || VERSION="0.0~$(git log -1 --format=%cd.%h --date=format:%Y%m%d)"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
MTIME=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
STAGE=$(mktemp -d)
export SOURCE_DATE_EPOCH
trap 'rm -rf "$STAGE"' EXIT
build() { (cd "$SOURCE" && CGO_ENABLED=0 GOOS=linux GOARCH=$1 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$VERSION" -o "$2" ./cmd/keelson); }

# The licences of everything that is linked, as their texts ask for.
notices() {
	(cd "$SOURCE" && go list -deps -f '{{with .Module}}{{if .Dir}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}{{end}}' ./cmd/keelson) | LC_ALL=C sort -u |
		while read -r module version dir; do
			printf '\n\n=== %s %s\n' "$module" "$version"
			cat "$dir"/LICENSE* "$dir"/COPYING* "$dir"/NOTICE* 2>/dev/null || [ -n "$(ls "$dir"/LICENSE* "$dir"/COPYING* 2>/dev/null)" ] || exit 1
		done
}

build "$(go env GOHOSTARCH)" "$STAGE/host"
"$STAGE/host" man "$STAGE/man"
gzip -9n "$STAGE"/man/*.1
mkdir "$STAGE/completion"
"$STAGE/host" completion bash >"$STAGE/completion/keelson.bash"
"$STAGE/host" completion zsh >"$STAGE/completion/_keelson"
"$STAGE/host" completion fish >"$STAGE/completion/keelson.fish"
notices | gzip -9n >"$STAGE/NOTICES.gz"
printf 'keelson (%s) unstable; urgency=medium\n\n  * What changed is told by the history of the source (git log).\n\n -- Keelson maintainers <maintainers@keelson.invalid>  %s\n' \
	"$VERSION" "$(date -R -u -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$STAGE/changelog.gz"
find "$STAGE" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
umask 022
for ARCH in "$@"; do
	build "$ARCH" "$STAGE/keelson"
	touch -d "@$SOURCE_DATE_EPOCH" "$STAGE/keelson"
	sed -e "s|\${ARCH}|$ARCH|; s|\${VERSION}|$VERSION|; s|\${STAGE}|$STAGE|; s|\${MTIME}|$MTIME|" packaging/nfpm.yaml >"$STAGE/nfpm.yaml"
	go tool -modfile=tools/pkg.mod nfpm package --config "$STAGE/nfpm.yaml" --packager deb --target "$out/keelson_${VERSION}_$ARCH.deb"
done
