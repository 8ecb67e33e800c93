#!/usr/bin/env bash
# Builds the packages of a release that does not exist yet into build/deb-next: the same source at the next feature level, so that the
# upgrade runbook has something to upgrade to.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
cd "$top"

next=$top/build/next
mkdir -p "$next"
level=$(sed -n 's/^const HighestLevel = //p' fsm/level.go)
sed "s/^const HighestLevel = $level$/const HighestLevel = $((level + 1))/" fsm/level.go >"$next/level.next"
cmp --quiet fsm/level.go "$next/level.next" && { echo "next: fsm/level.go no longer has HighestLevel" >&2; exit 1; }
printf '{"Replace": {"%s": "%s"}}\n' "$top/fsm/level.go" "$next/level.next" >"$next/overlay.json"
for program in hizo hizod; do
  cgo=0
  [ $program = hizod ] && cgo=1
  CGO_ENABLED=$cgo ${GO:-go} build -trimpath -overlay "$next/overlay.json" -ldflags '-s -w' -o "$next/$program" "./cmd/$program"
done
HIZO_DEB_BIN=$next HIZO_DEB_VERSION=9999 "$here/build.sh" "$top/build/deb-next"
