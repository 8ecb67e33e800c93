#!/usr/bin/env bash
# Runs every fuzz target of the module for a short time, one after another.
#
#   tools/fuzz.sh DURATION [PACKAGE-FOLDER...]
#
# A crasher is written by Go to the package's testdata/fuzz: commit it with the repair, so that it stays tested.
set -euo pipefail
cd "$(dirname "$0")/.."
duration=$1
shift
folders=("$@")
[ ${#folders[@]} -gt 0 ] || folders=(.)

count=0
while IFS=: read -r file line; do
  target=$(sed -E 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/' <<<"$line")
  package=./$(dirname "$file")
  echo "fuzz: $package $target for $duration"
  "${GO:-go}" test -run='^$' -fuzz="^$target\$" -fuzztime="$duration" "$package"
  count=$((count + 1))
done < <(grep -rnE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' "${folders[@]}" |
  grep -v '^\./tools/' | sed -E 's/^([^:]+):[0-9]+:/\1:/' | LC_ALL=C sort)
if [ $count -eq 0 ]; then
  echo "fuzz: no fuzz target found" >&2
  exit 1
fi
echo "fuzz: $count targets, no failure"
