#!/usr/bin/env bash
# The demo: a cluster of three node processes on this machine, and the story of story.sh told on it.
# Everything it writes lies in build/demo; nothing it started outlives it. Needs bin/hizo and bin/hizod (make build).
set -euo pipefail
umask 077
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
dir=$top/build/demo
limit=${HIZO_DEMO_SECONDS:-170} # a demo that hangs must end, and say so

for program in hizo hizod; do
  if [ ! -x "$top/bin/$program" ]; then
    echo "demo: bin/$program is missing; run: make build" >&2
    exit 1
  fi
done
# Looked up before HOME changes: a wrapper in the PATH may find its Python by it.
if ! DEMO_PYTHON=$(python3 -c 'import sys; print(sys.executable)' 2>/dev/null); then
  echo "demo: python3 is missing; install with: sudo apt-get install python3" >&2
  exit 1
fi

mkdir -p "$top/build"
exec 9<"$top/build"
if ! flock --nonblock 9; then
  echo "demo: another demo is running in $dir" >&2
  exit 1
fi
rm -rf "$dir"
mkdir -p "$dir/home" "$dir/tmp"

# hizod stops its nodes itself, and they end with it. What this catches is that failing: a node is ended only if the
# process of that number still is one. (Nodes switch ptrace off, which hides their /proc/PID/exe, not their arguments.)
stop_nodes() {
  local file pid
  for file in "$dir"/cluster/nodes/*/pid; do
    pid=$(cat "$file" 2>/dev/null) || continue
    if { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF "server --config ${file%pid}config.yaml"; then
      kill -KILL "$pid" 2>/dev/null || true
    fi
  done
}
trap stop_nodes EXIT

export DEMO_PYTHON DEMO_DIR=$dir
export HOME=$dir/home XDG_CONFIG_HOME=$dir/home XDG_CACHE_HOME=$dir/home TMPDIR=$dir/tmp
export PATH=$top/bin:$PATH PYTHONDONTWRITEBYTECODE=1
unset HIZO_ADDRS HIZO_CACERT HIZO_TOKEN_FILE HIZO_TRUST

begin=$SECONDS
code=0
timeout --foreground --kill-after=20 "$limit" \
  "$top/bin/hizod" dev --nodes 3 --dir "$dir/cluster" --hsm auto --exec "$here/story.sh" 9>&- || code=$?
case $code in
  0) printf '\nThe demo took %d seconds. Its files are in %s; make clean removes them.\n' $((SECONDS - begin)) "${dir#"$top/"}" ;;
  124) echo "demo: stopped after $limit seconds; the nodes' logs are in $dir/cluster/nodes" >&2 ;;
  *) echo "demo: failed with exit code $code; the nodes' logs are in $dir/cluster/nodes" >&2 ;;
esac
exit "$code"
