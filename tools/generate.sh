#!/usr/bin/env bash
# Generates Go code from every .proto file.
#
#   tools/generate.sh PLUGINS          writes the generated files beside their .proto files
#   tools/generate.sh --check PLUGINS  generates into a temporary folder and fails on any difference
#
# PLUGINS is the folder that holds protoc-gen-go and protoc-gen-go-grpc (built by make from the tools module).
# Each top-level folder is the import root of the files below it: hizov1/hizo.proto lies in api/.
# protoc's own version stands in the generated comments and differs between Debian releases, so the check
# ignores that one line; the plugins are pinned and are compared.
set -euo pipefail
cd "$(dirname "$0")/.."

check=0
if [ "${1:-}" = "--check" ]; then
  check=1
  shift
fi
plugins=$(cd "$1" && pwd)

mapfile -t roots < <(find . -name '*.proto' -type f -not -path './build/*' -not -path '*/testdata/*' |
  cut -d/ -f2 | LC_ALL=C sort -u)
if [ ${#roots[@]} -eq 0 ]; then
  echo "generate: no .proto file found" >&2
  exit 1
fi

top=.
if [ $check -eq 1 ]; then
  top=$(mktemp -d)
  trap 'rm -rf "$top"' EXIT
fi
stale=0
for root in "${roots[@]}"; do
  mapfile -t protos < <(cd "$root" && find . -name '*.proto' -type f -printf '%P\n' | LC_ALL=C sort)
  out=$top/$root
  mkdir -p "$out"
  protoc -I "$root" \
    --plugin=protoc-gen-go="$plugins/protoc-gen-go" --go_out="$out" --go_opt=paths=source_relative \
    --plugin=protoc-gen-go-grpc="$plugins/protoc-gen-go-grpc" --go-grpc_out="$out" --go-grpc_opt=paths=source_relative \
    "${protos[@]}"
  [ $check -eq 1 ] || continue
  while IFS= read -r file; do
    difference=$(diff -u -I '^//[[:space:]-]*protoc[[:space:]]' "$root/$file" "$out/$file" 2>&1) && continue
    stale=1
    head -n 40 <<<"$difference" >&2
  done < <({ (cd "$out" && find . -name '*.pb.go' -type f -printf '%P\n') &&
    (cd "$root" && find . -name '*.pb.go' -type f -printf '%P\n'); } | LC_ALL=C sort -u)
done
if [ $stale -ne 0 ]; then
  echo "generate: generated code is out of date: run make generate and commit the result" >&2
  exit 1
fi
