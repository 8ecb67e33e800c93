#!/usr/bin/env bash
# Makes a base image without a registry: Debian and what the Containerfile needs, by debootstrap, as root.
#
#   deploy/compose/base.sh [NAME]     then: make image BASE=NAME      (default: localhost/hizo-base:bookworm)
#
# ARCHIVE=FILE keeps the root file system there, and takes it from there when it exists.
set -euo pipefail
name=${1:-localhost/hizo-base:bookworm}
engine=${ENGINE:-podman}
suite=bookworm
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
archive=${ARCHIVE:-$tmp/root.tar}
if [ ! -e "$archive" ]; then
  log=$tmp/debootstrap.log
  if ! debootstrap --variant=minbase --include=ca-certificates,softhsm2 "$suite" "$tmp/root" >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    exit 1
  fi
  rm -rf "$tmp/root"/var/cache/apt/archives/*.deb "$tmp/root"/var/lib/apt/lists/* "$tmp/root"/usr/share/{doc,man,locale}/*
  tar -C "$tmp/root" -cf "$archive.part" .
  mv "$archive.part" "$archive" # whole or not there
fi
"$engine" import "$archive" "$name"
