#!/usr/bin/env bash
# Installs the named Debian packages that are missing, and says in one line what it could not install.
#
#   tools/install-deps.sh [--require] PACKAGE...
#
# Nothing is done for a package whose file is already there. Without --require a package that cannot be
# installed is a warning (exit 0), because the tests that need it skip and say so; with it, an error (exit 1).
# Servers among them are installed for their programs: they are neither started nor enabled for the next boot.
set -euo pipefail

require=0
if [ "${1:-}" = "--require" ]; then
  require=1
  shift
fi

# present PACKAGE: is what we use of it on this machine, wherever it came from?
present() {
  case $1 in
    softhsm2)
      command -v softhsm2-util >/dev/null &&
        { compgen -G '/usr/lib/softhsm/libsofthsm2.so' || compgen -G '/usr/lib/*/softhsm/libsofthsm2.so'; } >/dev/null ;;
    protobuf-compiler) command -v protoc >/dev/null ;;
    etcd-server) command -v etcd >/dev/null ;;
    python3) command -v python3 >/dev/null ;;
    gcc) command -v "${CC:-gcc}" >/dev/null ;;
    postgresql) compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ;;
    mariadb-server) { command -v mariadbd || compgen -G '/usr/sbin/mariadbd'; } >/dev/null && command -v mariadb-install-db >/dev/null ;;
    redis-server) command -v redis-server >/dev/null ;;
    *) dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed' ;;
  esac
}

missing=()
for package in "$@"; do
  present "$package" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

give_up() {
  echo "install-deps: missing: ${missing[*]} ($1); install with: sudo apt-get install ${missing[*]}" >&2
  exit "$require"
}

command -v apt-get >/dev/null || give_up "no apt-get on this machine"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
    give_up "neither root nor sudo without a password"
  fi
  as_root=(sudo -n)
fi

install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends "${missing[@]}" </dev/null
}
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
made_policy=
cleanup() {
  rm -f "$log"
  [ -z "$made_policy" ] || "${as_root[@]}" rm -f "$policy"
}
trap cleanup EXIT
# Packages ask this file whether they may start their service; 101 means no. An existing one knows better.
if [ ! -e "$policy" ]; then
  made_policy=yes
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
fi
echo "install-deps: installing ${missing[*]}" >&2
# A machine's package lists can be absent or stale, so a first failure is answered by refreshing them once.
if ! install >"$log" 2>&1; then
  if ! { "${as_root[@]}" apt-get -qq -o DPkg::Lock::Timeout=120 update </dev/null && install; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    give_up "apt-get failed"
  fi
fi

left=()
for package in "${missing[@]}"; do
  present "$package" || left+=("$package")
done
if [ ${#left[@]} -gt 0 ]; then
  missing=("${left[@]}")
  give_up "apt-get reported success, but they are not where they are looked for"
fi

# What was not here before today is nobody's service.
if command -v systemctl >/dev/null; then
  for package in "${missing[@]}"; do
    case $package in
      postgresql | redis-server) unit=$package ;;
      mariadb-server) unit=mariadb ;;
      *) continue ;;
    esac
    "${as_root[@]}" systemctl --quiet disable "$unit" >/dev/null 2>&1 || true # there may be no systemd running
  done
fi
