#!/usr/bin/env bash
# Follows README.md word by word on five machines (machines.sh) and shows what is printed: the packages of build/deb are installed, a
# cluster is made, and jobs go on while two nodes lose their power. Ends with an error where a command of the README fails.
#
#   ```sh each          as root on every node
#   ```sh n2 n3         as root on these
#   ```sh workstation   on the machine from which it is all done, in one shell
#   ```text printed     what the block before it printed; with --record the page is written anew
#   <!-- test: … -->    what a person would wait for or do by hand, in the workstation's shell
#
# five.sh [--record] [PAGE...] follows these pages afterwards, on the same machines: make runbooks.
#
# Needs root, iproute2, systemd and SoftHSM2; make deploy-systemd has it all.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
. "$here/machines.sh"
machines_enter "$top/build/machines" 10.20.0 "$@"
record=
if [ "${1:-}" = --record ]; then
  record=yes
  shift
fi
pages=()
for page; do pages+=("$(realpath "$page")"); done

began=$SECONDS
nodes="n1 n2 n3 n4 n5"
work=$machines_dir/workstation
mkdir -p "$work/home"
cp "$top"/build/deb/*.deb "$work/"
if [ -d "$top/build/deb-next" ]; then cp -r "$top/build/deb-next" "$work/next"; fi
export HOME=$work/home XDG_CONFIG_HOME=$work/home PATH=$machines_dir/bin:$top/bin:$PATH
unset HIZO_ADDRS HIZO_CACERT HIZO_TOKEN_FILE HIZO_TRUST

# What the service says when something goes wrong is worth more than the command that failed.
failed() {
  local n
  printf '\nfive: failed: %s\n' "$1" >&2
  tail -n 5 jobs-* >&2 || true
  for n in $nodes; do
    printf -- '--- %s\n' "$n" >&2
    machine_do "$n" journalctl --no-pager --output=cat --lines=15 -u hizod >&2 2>&1 || true
  done
  exit 1
}

# await WHAT COMMAND: until the command succeeds.
await() {
  local until=$((SECONDS + 60))
  while ! (eval "$2") >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || failed "waited a minute until $1"
    sleep 0.1
  done
}

jobs_since_loss() { awk -v lost="$(cat lost)" '$1 > lost' jobs-1 jobs-2 | wc -l; }

# Where even root may not raise limits (a container without CAP_SYS_RESOURCE), LimitMEMLOCK=infinity has no effect.
may_lock_memory() {
  local n
  if (ulimit -l unlimited) 2>/dev/null; then return; fi
  echo "five: this machine does not let its root raise RLIMIT_MEMLOCK: tried without memory_lock" >&2
  for n in ${*:-$nodes}; do machine_do "$n" "sed -i 's/^memory_lock: true/memory_lock: false/' /etc/hizo/hizod.yaml"; done
}

for n in $nodes; do machine_on "$n" & booting+=($!); done
for one in "${booting[@]}"; do wait "$one"; done
echo "five machines are up after $((SECONDS - began)) s"

# tidy keeps this machine's paths and apt's progress out of what is shown.
tidy() { sed -e 's/\r*$//' -e 's/^.*\r//' -e "s|$work/||g" -e 's/[[:space:]]*$//'; }

# on WHERE TEXT: runs one block.
on() {
  local n code=0 running=()
  case $1 in
    security) return ;; # TestSecurity has it
    workstation)
      printf '\nworkstation, after %d s\n' $((SECONDS - began))
      sed 's/^/  $ /' <<<"$2"
      { eval "$2" >"$work/printed" 2>&1 || code=$?; } <"$work/stdin"
      tidy <"$work/printed" | tee "$work/shown" | sed 's/^/  /'
      [ $code -eq 0 ] || failed "a block of the workstation"
      return
      ;;
    each) set -- "$nodes" "$2" ;;
  esac
  if [ $setup ]; then steps+=("$1"$'\n'"$2"); fi
  printf '\n%s, after %d s\n' "$1" $((SECONDS - began))
  sed 's/^/  # /' <<<"$2"
  # One after the other, as a person does it, would take five times as long.
  for n in $1; do
    machine_do "$n" "set -e; eval $(printf %q "$2")" >"$work/printed-$n" 2>&1 </dev/null &
    running+=("$!")
  done
  for n in $1; do
    wait "${running[0]}" || code=$?
    running=("${running[@]:1}")
    [ $code -eq 0 ] || { cat "$work/printed-$n"; failed "a block on $n"; }
  done
  tidy <"$work/printed-${1%% *}" | tee "$work/shown" | sed 's/^/  /' # the others print the same
}

cd "$work"
printf 'correct horse battery staple\n' >stdin # what alice enters

# reinstall NAME: a new machine of this name, on which the README's steps for it are done.
reinstall() {
  local step
  machine_new "$1"
  ssh "root@$1" 'cat > /root/hizod.deb' <"$(echo hizod_*.deb)"
  for step in "${steps[@]}"; do
    [[ $step != *'systemctl enable'* ]] || may_lock_memory "$1"
    case " ${step%%$'\n'*} " in
      *" $1 "*)
        machine_do "$1" "set -e; eval $(printf %q "${step#*$'\n'}")" >"$work/printed-$1" 2>&1 </dev/null ||
          { cat "$work/printed-$1"; failed "reinstalling $1"; }
        ;;
    esac
  done
}

# follow PAGE: runs its blocks in their order, and with --record writes down what they printed.
follow() {
  local where='' text='' line fresh=$work/page
  : >"$fresh"
  printf '\n=== %s\n' "${1#"$top/"}"
  while IFS= read -r line <&8; do
    if [ "$where" = printed ]; then
      if [ "$line" = '```' ]; then
        where=''
        { cat "$work/shown"; echo '```'; } >>"$fresh"
      fi
      continue
    fi
    printf '%s\n' "$line" >>"$fresh"
    if [ "$where" ]; then
      if [ "$line" = '```' ]; then
        on "$where" "${text%$'\n'}"
        where='' text=''
      else
        text+=$line$'\n'
      fi
    elif [ "$line" = '```text printed' ]; then
      where=printed
    elif [[ $line == '```sh '* ]]; then
      where=${line#'```sh '}
    elif [[ $line == '<!-- test: '*' -->' ]]; then
      line=${line#'<!-- test: '}
      eval "${line%' -->'}" || failed "$line"
    fi
  done 8<"$1"
  if [ $record ] && ! cmp --quiet "$fresh" "$1"; then cat "$fresh" >"$1"; fi
}
steps=() setup=yes # what is done on nodes
follow "$here/README.md"
setup=

# The acceptance itself: no job failed, and there were some before and after the loss.
awk -v lost="$(cat lost)" '
  $1 > lost { after++ } $1 <= lost { before++ } $2 != "ok" { failed++ } $3 > longest { longest = $3 }
  END { exit !(before >= 20 && after >= 40 && !failed && longest < 5000) }' jobs-1 jobs-2 || failed "jobs did not go on"
printf '\nfive nodes from this README, two of them lost and back, in %d s\n' $((SECONDS - began))

for page in ${pages[@]+"${pages[@]}"}; do follow "$page"; done
