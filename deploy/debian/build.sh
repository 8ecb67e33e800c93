#!/usr/bin/env bash
# Builds the Debian packages hizo (client) and hizod (server) from bin/ into build/deb (make deb).
#
# dpkg-deb alone does it, so that nothing needs to be installed for it; compressed by gzip, which every release of Debian
# reads. The same commit and the same binaries give the same bytes: all times are the commit's, all owners root.
set -euo pipefail
umask 022
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
out=${1:-$top/build/deb}
bin=${HIZO_DEB_BIN:-bin}
cd "$top"

for need in dpkg-deb readelf git gzip; do
  command -v "$need" >/dev/null || { echo "deb: $need is missing; install with: sudo apt-get install dpkg binutils git gzip" >&2; exit 1; }
done
for program in hizo hizod; do
  [ -x "$bin/$program" ] || { echo "deb: $bin/$program is missing; run: make build" >&2; exit 1; }
done

# A tag v1.2.3 gives 1.2.3; anything else sorts before the first release, by the commit's time. Uncommitted changes sort after
# the commit they are on.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
if tag=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null); then
  version=${tag#v}
else
  version=0~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d.%H%M%S)+g$(git rev-parse --short=12 HEAD)
fi
git diff --quiet HEAD -- . || version+=+modified
version=${HIZO_DEB_VERSION:-$version} # tests of upgrades build a second one
arch=$(dpkg --print-architecture)
# The C library's version is the newest that a symbol of the program asks for.
glibc=$(readelf --version-info --wide "$bin/hizod" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)

stage=$top/build/deb-stage
rm -rf "$stage"
mkdir -p "$stage" "$out"
rm -f "$out"/*.deb

# put PACKAGE MODE TARGET FILE
put() { install -D -m "$2" "$4" "$stage/$1/${3#/}"; }

# control PACKAGE DEPENDS SUMMARY, the long description on standard input.
control() {
  mkdir -p "$stage/$1/DEBIAN"
  cat >"$stage/$1/DEBIAN/control" <<CONTROL
Package: $1
Version: $version
Architecture: $arch
Maintainer: The Hizo developers <hizo@localhost>
Installed-Size: $(du -sk --apparent-size "$stage/$1" | cut -f 1)
${2}Section: admin
Priority: optional
Description: $3
$(fold -s -w 76 | sed 's/ *$//; s/^$/./; s/^/ /')
CONTROL
  (cd "$stage/$1" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
  find "$stage/$1" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group -Zgzip --build "$stage/$1" "$out/$1_${version}_$arch.deb" >/dev/null
}

copyright() {
  mkdir -p "$stage/$1/usr/share/doc/$1"
  cat >"$stage/$1/usr/share/doc/$1/copyright" <<COPYRIGHT
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2026 The Hizo developers
License: Apache-2.0
 On Debian systems the text of this licence is in /usr/share/common-licenses/Apache-2.0.
COPYRIGHT
  gzip -9nc CHANGELOG.md >"$stage/$1/usr/share/doc/$1/CHANGELOG.md.gz"
  gzip -9nc >"$stage/$1/usr/share/doc/$1/changelog.gz" <<CHANGES
$1 ($version) unstable; urgency=medium

  * What is new: /usr/share/doc/$1/CHANGELOG.md.gz

 -- The Hizo developers <hizo@localhost>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
CHANGES
}

put hizo 755 /usr/bin/hizo "$bin/hizo"
put hizo 644 /usr/share/doc/hizo/cli.md docs/cli.md
copyright hizo
control hizo "" "secrets for machine-learning pipelines, client" <<'TEXT'
The command line of Hizo, a replicated secrets cluster: it keeps and reads secrets, administrates a cluster, and hands
secrets to training jobs (hizo run, hizo agent) without showing them to anyone.

It is one static program and needs no server on this machine; those are in hizod.
TEXT

put hizod 755 /usr/bin/hizod "$bin/hizod"
put hizod 755 /usr/sbin/hizod-offline deploy/systemd/hizod-offline
put hizod 644 /usr/lib/systemd/system/hizod.service deploy/systemd/hizod.service
put hizod 644 /usr/lib/sysusers.d/hizod.conf deploy/systemd/hizod.sysusers
put hizod 644 /usr/lib/tmpfiles.d/hizod.conf deploy/systemd/hizod.tmpfiles
put hizod 644 /usr/share/doc/hizod/examples/hizod.yaml deploy/systemd/hizod.yaml
put hizod 644 /usr/share/doc/hizod/examples/softhsm.conf deploy/systemd/softhsm.conf
put hizod 644 /usr/share/doc/hizod/README.md deploy/systemd/README.md
put hizod 644 /usr/share/doc/hizod/running.md docs/running.md
for script in postinst prerm postrm; do
  install -D -m 755 "deploy/debian/hizod.$script" "$stage/hizod/DEBIAN/$script"
done
copyright hizod
control hizod "Depends: libc6 (>= ${glibc#GLIBC_}), systemd
Recommends: hizo
Suggests: softhsm2
" "replicated secrets cluster, server" <<'TEXT'
One node of Hizo, a secrets cluster replicated by Raft: it keeps credentials encrypted under keys in hardware (PKCS#11), lets
only security engineers read them, hands them to training jobs, and records every access in a log that can be proven whole.

Nothing is started by installing or upgrading it: a node needs a configuration first, and an upgrade restarts one node after
the other. See /usr/share/doc/hizod/README.md.
TEXT

rm -rf "$stage"
ls -1 "$out"/*.deb
