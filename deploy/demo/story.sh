#!/usr/bin/env bash
# The story that the demo tells. Run by `hizod dev --exec`, which sets HIZO_ADDRS, HIZO_CACERT and HIZO_TOKEN_FILE
# (a SecurityEngineer who is Operator and Auditor as well); demo.sh sets DEMO_DIR and DEMO_PYTHON.
# Secrets go through pipes and files of mode 0600, never through arguments; printf is a shell builtin.
set -euo pipefail
umask 077
here=$(cd "$(dirname "$0")" && pwd)
files=$DEMO_DIR/files
mkdir -p "$files"
cd "$here"

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
number=0
step() {
  number=$((number + 1))
  printf '\n%s%d. %s%s\n' "$bold" "$number" "$1" "$plain"
}
say() { printf '   %s\n' "$@"; }
show() { printf '   %s$ %s%s\n' "$dim" "$*" "$plain"; }
indent() { sed 's/^/   /'; }
fail() {
  printf 'story: %s\n' "$1" >&2
  exit 1
}

# run COMMAND: shows the command, runs it, and stops the story when it fails.
run() {
  show "$@"
  "$@" 2>&1 | indent
}

# refused COMMAND: shows the command and stops the story unless the server refuses it (exit 2).
refused() {
  show "$@"
  local code=0
  "$@" 2>&1 | fold -s -w 110 | indent || code=${PIPESTATUS[0]}
  [ "$code" -eq 2 ] || fail "expected a refusal (exit 2), got exit $code"
}

# as NAME COMMAND: runs a command of ours with the token of NAME.
as() {
  local who=$1
  shift
  HIZO_TOKEN_FILE=$files/$who.token "$@"
}

# json KEY...: reads an object from standard input and prints the first of the keys that it has.
json() { "$DEMO_PYTHON" -c 'import json, sys; o = json.load(sys.stdin); print(next(o[k] for k in sys.argv[1:] if k in o))' "$@"; }

random() { head -c "$1" /dev/urandom | base64 -w0 | tr '+/' '-_'; }

source_pid=
postgres_stop() { :; } # postgres.sh has the real one
stop() {
  [ -z "$source_pid" ] || kill "$source_pid" 2>/dev/null || true
  postgres_stop
}
trap stop EXIT

step "A cluster of three nodes, each with its own keys, is up and unsealed"
run hizo whoami
run hizo cluster members

step "The security engineer makes a vault and stores the credential of a data source in it"
password=$(random 24)
run hizo vault create ml
show "hizo secret put ml/iris/source password=-      (the value comes by standard input)"
printf '%s' "$password" | hizo secret put ml/iris/source password=- 2>&1 | indent

step "Dana, a data scientist without a role, is refused"
dana=$(random 18)
show "hizo user create dana --password-stdin"
printf '%s' "$dana" | hizo user create dana --password-stdin 2>&1 | indent
show "hizo login --user dana --password-stdin"
printf '%s' "$dana" | as dana hizo login --user dana --password-stdin 2>&1 | indent
as dana refused hizo secret get ml/iris/source --field password
run hizo policy explain user/dana reveal ml/iris/source

step "The engineer may reveal it, and says why"
show "hizo secret get ml/iris/source --field password --reason 'the data source reports failed logins'"
revealed=$(hizo secret get ml/iris/source --field password --reason 'the data source reports failed logins')
[ "$revealed" = "$password" ] || fail "the revealed value is not the stored one"
say "revealed: ${revealed:0:3}…, ${#revealed} characters (the value that was stored; shortened here)"
unset revealed

step "A training pipeline gets an identity, and no right yet"
run hizo workload create train
show "hizo workload secret-id train > secret-id        (works once)"
{ hizo workload secret-id train >"$files/secret-id"; } 2>&1 | indent
show "hizo login --workload train --secret-id-file secret-id"
as train hizo login --workload train --secret-id-file "$files/secret-id" 2>&1 | indent
as train refused hizo run --env DATA_PASSWORD=hizo://ml/iris/source#password -- true

step "The engineer grants the pipeline one reference: to inject, not to read"
sed -n '/^permit/,$p' "$here/train.cedar" | indent
run hizo policy put train-iris @train.cedar
as train refused hizo secret get ml/iris/source --field password

step "The pipeline trains; its data source demands the password"
mkfifo "$files/url"
"$DEMO_PYTHON" "$here/dataserver.py" --password-fd 3 3< <(printf '%s' "$password") \
  >"$files/url" 2>"$files/source.log" &
source_pid=$!
read -r url <"$files/url" || fail "the data source did not start: $(cat "$files/source.log")"
say "the data source is at $url"
train() {
  show "hizo run --env DATA_PASSWORD=hizo://ml/iris/source#password -- python3 train.py $url"
  as train hizo run --env DATA_PASSWORD=hizo://ml/iris/source#password -- \
    "$DEMO_PYTHON" "$here/train.py" "$url" >"$files/train.out" 2>&1 || {
    indent <"$files/train.out"
    fail "training failed"
  }
  indent <"$files/train.out"
}
train
model=$(grep '^model ' "$files/train.out")

step "The leader is killed with SIGKILL; the pipeline trains again"
leader=$(hizo cluster status --format json | json leader_id leaderId leader)
pid=$(cat "$DEMO_DIR/cluster/nodes/${leader##*[!0-9]}/pid")
say "the leader is $leader, process $pid"
show "kill -KILL $pid"
kill -KILL "$pid"
before=$(date +%s%N)
train
say "$(( ($(date +%s%N) - before) / 1000000 )) ms from the kill to the trained model, election included"
[ "$(grep '^model ' "$files/train.out")" = "$model" ] || fail "the second model differs from the first"
now=$(hizo cluster status --format json | json leader_id leaderId leader)
say "the same model; the leader is now $now"
[ "$now" != "$leader" ] || fail "the killed node is still called the leader"

. "$here/postgres.sh"
if postgres_installed; then
  say "$leader is started again; it unseals with its peers' shares and catches up"
  node=$DEMO_DIR/cluster/nodes/${leader##*[!0-9]}
  SOFTHSM2_CONF=$node/hsm/softhsm2.conf hizod server --config "$node/config.yaml" >>"$node/log" 2>&1 </dev/null &
  echo $! >"$node/pid"
  disown
  . "$here/rotation.sh"
else
  say "Skipped: rotation while a job trains; it needs Debian's package postgresql, which is not installed and could not be."
fi

step "Nothing that the cluster wrote holds the password"
{ printf '%s\n' "$password"; printf '%s' "$password" | base64 -w0 | cut -c1-40; printf '%s' "$password" | od -An -tx1 | tr -d ' \n'; echo; } |
  { if grep -rlF -f - "$DEMO_DIR/cluster"; then fail "the password is in the files above"; fi; }
say "searched $(find "$DEMO_DIR/cluster" -type f | wc -l) files of logs, state and keys: in plain, base64 and hex"

step "Every access is in the replicated audit log, refusals too, and the log can be proven whole"
run hizo audit search --resource ml/iris/source
if postgres_installed; then run hizo audit search --resource ml/pg/train; fi
run hizo audit verify
