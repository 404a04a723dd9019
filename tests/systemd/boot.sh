#!/bin/bash
# Boots a private, throw-away, real systemd: PID 1 of its own namespaces, on a copy-on-write view of this host's root
# file system; powers it off when standard input ends. Prints "init PID" when it is up. Nothing of the host is changed.
#
#   boot.sh WORK STAGE [SOURCE:TARGET]...
#     WORK    an empty folder for what it needs meanwhile
#     STAGE   a folder whose content is put over / before the boot
#     SOURCE:TARGET   a host folder that appears there, read-only (all else of the host is there anyway, but for
#                     /tmp, /run, /var/log and /dev)
#   CGROUPS=v2 in the environment: with the unified hierarchy alone, also where the host has others beside it
set -euo pipefail
die() { echo "boot.sh: $*" >&2; exit 125; }

if [ "${1-}" = --inside ]; then
  W=$2 STAGE=$3; shift 3; R=$W/root
  mount --make-rprivate /
  mount -t tmpfs -o mode=755 boot "$W/upper"
  mkdir -p "$W/upper/upper" "$W/upper/work"
  mount -t overlay boot -o "lowerdir=/,upperdir=$W/upper/upper,workdir=$W/upper/work" "$R"
  mount -t proc -o nosuid,nodev,noexec proc "$R/proc"
  for p in sys kcore sysrq-trigger; do # the kernel's settings are the host's
    [ -e "$R/proc/$p" ] || continue
    mount --bind "$R/proc/$p" "$R/proc/$p"; mount -o remount,bind,ro,nosuid,nodev,noexec "$R/proc/$p"
  done
  mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$R/sys"
  if grep -qx v2 "$W/hierarchies"; then
    mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
  else
    mount -t tmpfs -o mode=755,nosuid,noexec,nodev cgroup "$R/sys/fs/cgroup"
    while read -r h; do
      if [ "$h" = unified ]; then mkdir "$R/sys/fs/cgroup/unified"; mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup/unified"
      else d=${h#name=}; mkdir "$R/sys/fs/cgroup/$d"; mount -t cgroup -o "$h" cgroup "$R/sys/fs/cgroup/$d"; fi
    done < "$W/hierarchies"
  fi
  mount -t tmpfs -o mode=755,nosuid tmpfs "$R/dev"
  for n in null zero full random urandom tty; do
    mknod -m 666 "$R/dev/$n" c "0x$(stat -c %t /dev/$n)" "0x$(stat -c %T /dev/$n)"
  done
  mkdir "$R/dev/pts" "$R/dev/shm" "$R/dev/mqueue"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5,nosuid,noexec devpts "$R/dev/pts"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$R/dev/shm"
  ln -s pts/ptmx "$R/dev/ptmx"; ln -s /proc/self/fd "$R/dev/fd"
  for i in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${i%%:*}" "$R/dev/${i##*:}"; done
  touch "$R/dev/console"; mount --bind "$W/console" "$R/dev/console"
  mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$R/run"; mkdir "$R/run/lock"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$R/tmp"
  mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$R/var/log"; mkdir -p "$R/var/log/journal"
  E=$R/etc/systemd/system; L=$R/lib/systemd/system
  mount -t tmpfs -o mode=755 tmpfs "$E" # none of the host's services
  tr -d - < /proc/sys/kernel/random/uuid > "$R/etc/machine-id"
  keep=" systemd-journald.service systemd-tmpfiles-setup.service systemd-sysusers.service systemd-journald.socket \
    systemd-journald-dev-log.socket local-fs.target swap.target "
  for t in sysinit sockets timers multi-user local-fs graphical; do
    for u in "$L/$t.target.wants"/*; do
      n=${u##*/}; [ -e "$u" ] || [ -L "$u" ] || continue
      case $keep in *" $n "*) ;; *) ln -sf /dev/null "$E/$n" ;; esac
    done
  done
  for n in systemd-remount-fs.service systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
    systemd-tmpfiles-clean.timer systemd-networkd.service console-getty.service getty.target; do
    ln -sf /dev/null "$E/$n"
  done
  printf '[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n' > "$E/tests.target"
  mkdir -p "$R/etc/systemd/journald.conf.d" "$R/etc/tmpfiles.d"
  ln -sf /dev/null "$R/etc/tmpfiles.d/tmp.conf"
  printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nAudit=no\nForwardToSyslog=no\nReadKMsg=no\n' \
    > "$R/etc/systemd/journald.conf.d/tests.conf"
  cp -r --no-preserve=ownership "$STAGE/." "$R/"
  for pair in "$@"; do
    mkdir -p "$R${pair#*:}"; mount --bind "${pair%%:*}" "$R${pair#*:}"; mount -o remount,bind,ro "$R${pair#*:}"
  done
  cd "$R"; mkdir -p mnt; mount --make-rprivate .
  pivot_root . mnt; umount -l /mnt; mount --make-rshared /; cd /
  exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=tests LANG=C.UTF-8 TERM=dumb \
    /lib/systemd/systemd --system --unit=tests.target --show-status=0 --log-target=journal-or-kmsg \
    </dev/null >/dev/console 2>&1
fi

W=$(realpath "$1") STAGE=$(realpath "$2"); shift 2
mkdir "$W/root" "$W/upper"; : > "$W/console"; : > "$W/hierarchies"
UPID='' INIT='' GROUPS_MADE=()

cleanup() {
  if [ -n "$INIT" ] && [ -d "/proc/$INIT" ]; then
    kill -s RTMIN+4 "$INIT" 2>/dev/null || true # poweroff.target
    for _ in $(seq 200); do [ -d "/proc/$INIT" ] || break; sleep 0.05; done
    kill -9 "$INIT" 2>/dev/null || true # and with it all that is in its namespace
  fi
  [ -z "$UPID" ] || { kill -9 "$UPID" 2>/dev/null || true; wait "$UPID" 2>/dev/null || true; }
  for _ in $(seq 50); do
    for d in "${GROUPS_MADE[@]}"; do [ ! -d "$d" ] || find "$d" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
    ls -d "${GROUPS_MADE[@]}" >/dev/null 2>&1 || break
    sleep 0.02
  done
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

# A control group of ours in every hierarchy, below the one this process is in.
while read -r mp fstype opts; do
  if [ "$fstype" = cgroup2 ]; then
    rel=$(sed -n 's/^0:://p' /proc/self/cgroup)
    if [ "$mp" = /sys/fs/cgroup ] || [ "${CGROUPS-}" = v2 ]; then h=v2; else h=unified; fi
  elif [ "${CGROUPS-}" = v2 ]; then continue
  else
    h=$(tr , '\n' <<<"$opts" | grep -E '^(name=.*|cpu|cpuacct|cpuset|memory|devices|freezer|blkio|pids|net_cls|net_prio|perf_event|hugetlb)$' | paste -sd,)
    rel=$(sed -nE "s/^[0-9]+:${h}://p" /proc/self/cgroup)
  fi
  d=$mp${rel%/}/batond-tests-$$
  mkdir "$d" 2>/dev/null || die "cannot make the control group $d"
  for f in cpuset.mems cpuset.cpus; do [ ! -e "$d/$f" ] || cat "${d%/*}/$f" > "$d/$f" 2>/dev/null || true; done
  GROUPS_MADE+=("$d"); echo "$h" >> "$W/hierarchies"
done < <(awk '$9=="cgroup"||$9=="cgroup2"||$10=="cgroup"||$10=="cgroup2"{print $5, ($9 ~ /^cgroup/ ? $9 : $10), $NF}' /proc/self/mountinfo)
[ ${#GROUPS_MADE[@]} -gt 0 ] || die "no control groups${CGROUPS:+ of $CGROUPS} are mounted"

(
  for d in "${GROUPS_MADE[@]}"; do echo "$BASHPID" > "$d/cgroup.procs"; done
  exec setpriv --pdeathsig KILL unshare --fork --kill-child --pid --mount --uts --ipc --cgroup --net --propagation private \
    bash "$0" --inside "$W" "$STAGE" "$@"
) >"$W/console" 2>&1 </dev/null &
UPID=$!
for _ in $(seq 500); do
  INIT=$(cat "/proc/$UPID/task/$UPID/children" 2>/dev/null | tr -d ' ' || true); [ -z "$INIT" ] || break
  [ -d "/proc/$UPID" ] || break; sleep 0.01
done
[ -n "$INIT" ] || die "cannot make namespaces: $(cat "$W/console")"
# unshare itself stays outside of the PID namespace: out of our groups, or systemd finds a process "0" there
for d in "${GROUPS_MADE[@]}"; do echo "$UPID" > "${d%/*}/cgroup.procs"; done
for _ in $(seq 1500); do
  [ -d "/proc/$INIT" ] || { INIT=''; die "systemd ended while it booted: $(cat "$W/console")"; }
  [ -S "/proc/$INIT/root/run/systemd/private" ] && [ "$(cat "/proc/$INIT/comm" 2>/dev/null)" = systemd ] && break
  sleep 0.02
done
state=$(nsenter -t "$INIT" -m -u -i -n -p -C -r -w -- timeout 60 systemctl is-system-running --wait || true)
case $state in running|degraded) ;; *) die "the boot ended as '$state': $(cat "$W/console")" ;; esac
echo "init $INIT $state"
cat >/dev/null # until whoever called us has had enough
