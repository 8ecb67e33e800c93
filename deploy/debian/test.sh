#!/usr/bin/env bash
# Installs, starts, upgrades, removes and purges the packages of build/deb on a machine that boots systemd (../systemd/machines.sh).
# Needs root, iproute2 and systemd; make deb-test.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
. "$here/../systemd/machines.sh"
machines_enter "$top/build/machine" 10.21.0 "$@"

fail() {
  printf 'deb: FAILED: %s\n' "$1" >&2
  machine_do n1 journalctl --no-pager --output=cat --lines=20 -u hizod >&2 || true
  exit 1
}
# on COMMAND: on the machine, as root; expect TEXT COMMAND: and it prints that text.
on() { machine_do n1 "$@"; }
expect() {
  local got
  got=$(on "$2" 2>&1) || true
  [[ $got == *"$1"* ]] || fail "$2: expected '$1', got '$got'"
  echo "ok   $2: $1"
}

# Built twice, the same bytes.
"$here/build.sh" "$machines_dir/again" >/dev/null
for deb in "$top"/build/deb/*.deb; do
  cmp "$deb" "$machines_dir/again/${deb##*/}" || fail "a second build of ${deb##*/} differs"
done
echo "ok   a second build gives the same bytes"
HIZO_DEB_VERSION=9999 "$here/build.sh" "$machines_dir/next" >/dev/null

machine_on n1
on 'mkdir /root/this /root/next'
for deb in "$top"/build/deb/*.deb; do on "cat > /root/this/${deb##*/}" <"$deb"; done
for deb in "$machines_dir"/next/*.deb; do on "cat > /root/next/${deb##*/}" <"$deb"; done

on 'dpkg -i /root/this/*.deb' >/dev/null || fail "it does not install"
expect ':/usr/sbin/nologin' 'getent passwd hizo'
expect '700 root /etc/hizo/credentials' 'stat -c "%a %U %n" /etc/hizo/credentials'
expect '700 hizo /run/hizo' 'stat -c "%a %U %n" /run/hizo'
expect disabled 'systemctl is-enabled hizod'
expect 'A node of Hizo' 'hizod --help'
expect 'Usage: hizo' 'hizo --help'
expect inactive 'systemctl start hizod; systemctl is-active hizod' # there is no configuration

on 'cat > /etc/hizo/hizod.yaml' <<'YAML'
node: n1
data_dir: /var/lib/hizo/data
peers: {listen: "127.0.0.1:7301"}
clients: {listen: "127.0.0.1:7300"}
seal: {type: software}
YAML
expect active 'systemctl enable --now hizod; systemctl is-active hizod'
expect 'Not a member of a cluster yet' 'systemctl show --property StatusText hizod'
expect '700 hizo /var/lib/hizo/data' 'stat -c "%a %U %n" /var/lib/hizo/data'
main='$(systemctl show --property MainPID --value hizod)'
expect hizo "ps -o user= -p $main"
for restriction in 'CapBnd: 0000000000000000' 'NoNewPrivs: 1' 'Seccomp: 2'; do
  expect "$restriction" "tr '\\t' ' ' </proc/$main/status"
done
before=$(on "echo $main")

expect "when it is its turn: systemctl restart hizod" 'dpkg -i /root/next/*.deb'
expect "=$before=" "echo =$main=" # the node runs on
expect active 'systemctl restart hizod; systemctl is-active hizod'
[ "$(on "echo $main")" != "$before" ] || fail "the restart has not started anything"

expect inactive 'dpkg --remove hizod >/dev/null; systemctl is-active hizod'
expect 'No such file' 'ls /etc/systemd/system/multi-user.target.wants/hizod.service'
expect '/var/lib/hizo is kept' 'dpkg --purge hizod'
expect identity 'ls /var/lib/hizo/data'
echo "the packages install, start, upgrade, are removed and purged"
