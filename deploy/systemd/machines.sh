# Machines to try a deployment on, without virtual ones: each is a set of namespaces with systemd as PID 1, an own address on a
# common bridge and a writable layer over this machine's root file system. Sourced by bash; needs root, iproute2, systemd.
#
#   machines_enter DIR NETWORK "$@"  call first: goes on in namespaces of its own, in which everything ends with this script
#   machine_on NAME                  boots it, the first time with an empty layer; n3 gets NETWORK.3
#   machine_do NAME COMMAND...       runs as root on it; standard input is passed on
#   machine_off NAME                 cuts its power
#   machine_new NAME                 puts a new one with an empty layer into the place of one that is off
#
# ROOTFS=DIR takes another root file system than this machine's, for example one made by debootstrap.

machines_enter() {
  machines_dir=$1 machines_net=$2
  shift 2
  if [ "$(id -u)" -ne 0 ]; then
    echo "${0##*/}: only root can make machines: skipped; try: sudo $0" >&2
    [ "${CI:-}" = true ] && exit 1
    exit 0
  fi
  if [ "${MACHINES_INSIDE:-}" != yes ]; then
    mkdir -p "$machines_dir"
    # One cgroup for all, because namespaces leave their cgroups behind when they end.
    local tree group old code=0
    group=hizo-machines-$$
    tree=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET || true)
    if [ -z "$tree" ]; then
      tree=/run/hizo-cgroup
      mkdir -p "$tree"
      mount -t cgroup2 cgroup2 "$tree"
    fi
    for old in "$tree"/hizo-machines-*; do # of one that was killed
      if grep -qs '^populated 0' "$old/cgroup.events"; then find "$old" -depth -type d -exec rmdir {} +; fi
    done
    mkdir "$tree/$group"
    (
      echo "$BASHPID" >"$tree/$group/cgroup.procs"
      MACHINES_INSIDE=yes exec setpriv --pdeathsig KILL unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private bash "$0" "$@"
    ) || code=$?
    # A killed process leaves its cgroup in a moment.
    until find "$tree/$group" -depth -type d -exec rmdir {} + 2>/dev/null; do sleep 0.05; done
    exit "$code"
  fi
  mount -t tmpfs -o mode=700 tmpfs "$machines_dir"
  mkdir "$machines_dir/cgroup" "$machines_dir/bin"
  mount -t cgroup2 cgroup2 "$machines_dir/cgroup"
  machines_group=$machines_dir/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
  ip link set lo up
  ip link add hizo0 type bridge
  ip address add "$machines_net.254/24" dev hizo0
  ip link set hizo0 up
  # What runs on the "workstation" reaches machines as if by ssh.
  cat >"$machines_dir/bin/ssh" <<SSH
#!/bin/sh
machine=\${1#root@}
shift
umask 022
exec nsenter --all --target "\$(cat $machines_dir/\$machine/pid)" env -i HOME=/root TERM=dumb LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin bash -c "cd; \$*"
SSH
  chmod 755 "$machines_dir/bin/ssh"
}

machine_do() { "$machines_dir/bin/ssh" "root@$1" "${*:2}"; }

machine_off() { kill -KILL "$(cat "$machines_dir/$1/pid")"; }

# machine_new NAME: another machine of this name: an empty layer, and on.
machine_new() {
  local dir=$machines_dir/$1
  umount "$dir/root"
  rm -rf "$dir"
  machine_on "$1"
}

machine_on() (
  umask 022 # a root directory that only root enters is none
  local name=$1 dir=$machines_dir/$1 first=
  local address=$machines_net.${name//[!0-9]/} group=$machines_group/$name
  if [ ! -d "$dir" ]; then
    first=yes
    mkdir -p "$dir/changes" "$dir/work" "$dir/root"
    mount -t overlay overlay -o "lowerdir=${ROOTFS:-/},upperdir=$dir/changes,workdir=$dir/work" "$dir/root"
  fi
  if [ $first ]; then (
    # This machine's own services and addresses are not those of a new one.
    cd "$dir/root"
    rm -rf etc/systemd/system/*.wants etc/hizo var/lib/hizo var/log/journal
    ln -sf /dev/null etc/systemd/system/getty.target
    ln -sf /dev/null etc/systemd/system/systemd-logind.service
    rm -rf usr/sbin/policy-rc.d var/lib/apt/lists # no packages but what is there already and what is copied to it
    echo "$name" >etc/hostname
    {
      echo 127.0.0.1 localhost
      for i in 1 2 3 4 5 6 7; do echo "$machines_net.$i n$i"; done
    } >etc/hosts
    systemd-id128 new >etc/machine-id
  ); fi
  mkdir -p "$group"
  rm -f "$dir/pid"
  (
    echo "$BASHPID" >"$group/cgroup.procs"
    exec unshare --mount --net --pid --uts --ipc --cgroup --fork --kill-child --propagation private bash -euc '
      name=$1 dir=$2
      cd "$dir/root"
      hostname "$name"
      mount -t proc proc proc
      for shared in proc/sys proc/sysrq-trigger; do # of the kernel, so of this machine
        [ -e $shared ] || continue
        mount --bind $shared $shared
        mount -o remount,bind,ro $shared
      done
      mount -t sysfs -o ro sysfs sys
      mount -t cgroup2 cgroup2 sys/fs/cgroup
      mount -t tmpfs -o mode=755 tmpfs run
      mount -t tmpfs -o mode=1777 tmpfs tmp
      mount -t tmpfs -o mode=755 tmpfs dev
      for node in null zero full random urandom tty; do
        : >dev/$node
        mount --bind /dev/$node dev/$node
      done
      mkdir dev/pts dev/shm
      mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
      ln -s pts/ptmx dev/ptmx
      mount -t tmpfs tmpfs dev/shm
      ln -s /proc/self/fd dev/fd
      mkdir run/old
      pivot_root . run/old
      umount -l run/old
      mount --make-rshared / # systemd leaves that to whoever makes a container, and hands credentials over by it
      exec env -i container=hizo PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --log-target=journal --show-status=no systemd.unit=multi-user.target
    ' bash "$name" "$dir" </dev/null >"$dir/console" 2>&1
  ) &
  # unshare is the parent of the machine's PID 1.
  local parent=$! try child
  for ((try = 0; try < 600; try++)); do
    child=$(cat "/proc/$parent/task/$parent/children" 2>/dev/null || true)
    if [ "$child" ] && [ "$(readlink "/proc/${child% }/ns/net")" != "$(readlink /proc/self/ns/net)" ]; then break; fi
    sleep 0.05
  done
  child=${child% }
  echo "$child" >"$dir/pid"
  ip link delete "to-$name" 2>/dev/null || true # of its last life
  if ! ip link add "to-$name" type veth peer name eth0 netns "$child"; then
    cat "$dir/console" >&2
    return 1
  fi
  ip link set "to-$name" master hizo0 up
  nsenter --net --target "$child" sh -c "ip link set lo up; ip address add $address/24 dev eth0; ip link set eth0 up"
  for ((try = 0; try < 600; try++)); do
    case $(machine_do "$name" systemctl is-system-running 2>/dev/null || true) in
      running | degraded) return 0 ;;
    esac
    sleep 0.1
  done
  echo "$name does not boot:" >&2
  cat "$dir/console" >&2
  return 1
)
