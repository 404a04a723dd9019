#!/bin/sh
# Installs batond for the whole host, or takes it away again. `make install` and `make uninstall` call it.
#
#   install.sh venv     the virtual environment: /opt/batond
#   install.sh files    commands, units, user, configuration
#   install.sh remove   both, but neither what batond keeps of sessions nor a configuration that was edited
#
#   PYTHON      the interpreter of the environment; every user must be able to run it   (/usr/bin/python3)
#   PREFIX      where commands, units and documents go                                  (/usr/local)
#   DESTDIR     a folder that stands for /, for whoever makes a package                 (none)
#   TENSORFLOW  what pip installs for sessions with a model, as tensorflow[and-cuda]; empty: nothing
#               (a version that batond is tested with)
set -eu
umask 022 # whatever the caller's is: every user runs what is installed

PYTHON=${PYTHON:-/usr/bin/python3}
PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
TENSORFLOW=${TENSORFLOW-default}
HOME_DIR=/opt/batond
VENV=$DESTDIR$HOME_DIR
NEW=$VENV.new
OLD=$VENV.old
CONFIG=$DESTDIR/etc/batond/batond.toml
DOC=$DESTDIR$PREFIX/share/doc/batond
UNITS=$DESTDIR$PREFIX/lib/systemd/system
SOURCE=$(cd "$(dirname "$0")/.." && pwd)

say() { echo "install: $*"; }
die() { echo "install: $*" >&2; exit 1; }
live() { [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; }

for given in "$PREFIX" ${DESTDIR:+"$DESTDIR"}; do
  case $given in /*) ;; *) die "PREFIX and DESTDIR are absolute paths, not '$given'" ;; esac
done

venv() {
  command -v "$PYTHON" >/dev/null || die "no '$PYTHON' here; install Python 3.11 or newer, or name it: make install PYTHON=/path/to/python3"
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "'$PYTHON' is $("$PYTHON" -V 2>&1), 3.11 or newer is needed; name one: make install PYTHON=/usr/bin/python3.12"
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    die "'$PYTHON' cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"
  # The service's user runs it: nothing on the way there may be closed to others, as /root mostly is.
  closed=$("$PYTHON" - <<'PY'
import sys, sysconfig
from pathlib import Path

wanted = {Path(sys._base_executable).resolve(), Path(sysconfig.get_paths()["stdlib"]).resolve()}
folders = {folder for path in wanted for folder in path.parents}
print(next((str(folder) for folder in sorted(folders) if not folder.stat().st_mode & 0o001), ""))
PY
  )
  [ -z "$closed" ] || die "the service's user cannot run '$PYTHON': $closed is closed to others; name another: make install PYTHON=/usr/bin/python3"
  [ -e "$VENV" ] || [ ! -e "$OLD" ] || mv "$OLD" "$VENV" # an earlier run died between the two steps of swap()
  # Beside the one that is there, which stays, and works, until this one does.
  say "making $VENV with $("$PYTHON" -V)"
  mkdir -p "$(dirname "$VENV")"
  copy=$(mktemp -d)
  trap 'rm -rf "$copy" "$NEW"' EXIT
  "$PYTHON" -m venv --clear "$NEW"
  # From a copy: a build leaves folders behind, and what an earlier one left would be installed too.
  (cd "$SOURCE" && cp -R pyproject.toml README.md LICENSE baton.py states daemon "$copy")
  pip="$NEW/bin/python -m pip install --quiet --disable-pip-version-check --no-compile"
  case $TENSORFLOW in
    default) say "installing batond and TensorFlow (large: some minutes)"; $pip "$copy[worker,timeline]" ;;
    '') say "installing batond without TensorFlow"; $pip "$copy[timeline]" ;;
    *) say "installing batond and $TENSORFLOW"; $pip "$copy[timeline]" numpy "$TENSORFLOW" ;;
  esac
  for module in daemon daemon.cli; do
    "$NEW/bin/python" -P -m "$module" --version >/dev/null || die "what was installed does not run; $VENV is as it was"
  done
  # Made by the version of click that is there: it is also what answers them.
  mkdir -p "$NEW/share/completions"
  for shell in bash zsh fish; do
    _BATONCTL_COMPLETE=${shell}_source "$NEW/bin/python" -P -m daemon.cli >"$NEW/share/completions/batonctl.$shell"
  done
  # It is to run at another place than where it was made, and must not say where that was.
  grep -rlIF "$NEW" "$NEW/bin" "$NEW/pyvenv.cfg" | while IFS= read -r file; do
    sed -i "s|$NEW|$HOME_DIR|g" "$file"
  done
  # The service may not write here, so what is compiled is compiled now. Files for other versions of Python do not matter.
  "$NEW/bin/python" -m compileall -q -f -j 0 -s "$NEW" -p "$HOME_DIR" "$NEW"/lib/python*/site-packages >/dev/null 2>&1 || true
  swap
}

swap() {
  rm -rf "$OLD"
  [ ! -e "$VENV" ] || mv "$VENV" "$OLD"
  mv "$NEW" "$VENV"
  rm -rf "$OLD"
}

put() { # MODE SOURCE TARGET: with the prefix that was chosen
  mkdir -p "$(dirname "$3")"
  sed "s|/usr/local/|${PREFIX%/}/|g" "$2" >"$3.new"
  chmod "$1" "$3.new"
  mv -f "$3.new" "$3"
}

configuration() {
  shipped=$DOC/batond.toml
  if [ ! -e "$CONFIG" ] || cmp -s "$CONFIG" "$shipped"; then
    put 644 "$SOURCE/systemd/batond.toml" "$CONFIG"
  else
    say "$CONFIG stays as it is; the one of this version: $shipped"
  fi
  put 644 "$SOURCE/systemd/batond.toml" "$shipped"
}

files() {
  mkdir -p "$DESTDIR$PREFIX/bin"
  for command in batond batonctl; do ln -sfn "$HOME_DIR/bin/$command" "$DESTDIR$PREFIX/bin/$command"; done
  for unit in batond.service batond.socket batond.service.d/10-nvidia.conf; do
    put 644 "$SOURCE/systemd/$unit" "$UNITS/$unit"
  done
  put 644 "$SOURCE/systemd/sysusers.d/batond.conf" "$DESTDIR$PREFIX/lib/sysusers.d/batond.conf"
  put 644 "$SOURCE/systemd/tmpfiles.d/batond.conf" "$DESTDIR$PREFIX/lib/tmpfiles.d/batond.conf"
  configuration
  for page in "$SOURCE"/README.md "$SOURCE"/LICENSE "$SOURCE"/docs/*.md; do put 644 "$page" "$DOC/${page##*/}"; done
  completions | while read -r shell link; do
    mkdir -p "$DESTDIR${link%/*}"
    ln -sfn "$HOME_DIR/share/completions/batonctl.$shell" "$DESTDIR$link"
  done
  if live; then
    systemd-sysusers
    systemd-tmpfiles --create "$PREFIX/lib/tmpfiles.d/batond.conf"
    systemctl daemon-reload
    say "installed; start it now and at each boot: systemctl enable --now batond.socket batond.service"
    say "let somebody submit: usermod -aG batond NAME"
  else
    say "installed${DESTDIR:+ below $DESTDIR}"
  fi
}

completions() { # SHELL LINK
  echo "bash $PREFIX/share/bash-completion/completions/batonctl"
  echo "zsh $PREFIX/share/zsh/site-functions/_batonctl"
  echo "fish $PREFIX/share/fish/vendor_completions.d/batonctl.fish"
}

left() { # what runs in the service, where no daemon does any more: `batonctl shutdown --leave-running` leaves its workers
  group=system.slice/batond.service/cgroup.procs
  cat /sys/fs/cgroup/$group /sys/fs/cgroup/systemd/$group /sys/fs/cgroup/unified/$group 2>/dev/null | sort -nu | paste -sd ' '
}

remove() {
  if live; then
    # Also the socket, or the next client would start what is being removed. It drains first, and that takes its time.
    systemctl disable --now batond.socket batond.service 2>/dev/null || true
    left=$(left)
    [ -z "$left" ] || die "sessions run on without batond (processes $left), with what is to be removed: \`systemctl start batond\` takes them back; then again, and they are drained"
  fi
  if cmp -s "$CONFIG" "$DOC/batond.toml"; then
    rm -f "$CONFIG"
    rmdir "$DESTDIR/etc/batond" 2>/dev/null || true
  elif [ -e "$CONFIG" ]; then
    say "kept, for it was edited: $CONFIG"
  fi
  for command in batond batonctl; do
    link=$DESTDIR$PREFIX/bin/$command
    [ "$(readlink "$link" 2>/dev/null)" != "$HOME_DIR/bin/$command" ] || rm -f "$link"
  done
  rm -f "$UNITS/batond.service" "$UNITS/batond.socket" "$UNITS/batond.service.d/10-nvidia.conf"
  rmdir "$UNITS/batond.service.d" 2>/dev/null || true
  rm -f "$DESTDIR$PREFIX/lib/sysusers.d/batond.conf" "$DESTDIR$PREFIX/lib/tmpfiles.d/batond.conf"
  completions | while read -r _ link; do rm -f "$DESTDIR$link"; done
  rm -rf "$DOC" "$VENV" "$NEW" "$OLD" "$DESTDIR/var/cache/batond"
  if live; then
    rm -rf /run/batond
    systemctl daemon-reload
  fi
  say "removed; kept are $DESTDIR/var/lib/batond, $DESTDIR/var/log/batond and the user batond, whose they are"
}

case ${1:-} in
  venv | files | remove) "$1" ;;
  *) die "usage: install.sh venv|files|remove" ;;
esac
