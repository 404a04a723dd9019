"""rsyslog, syslog-ng, lnav and jq from Debian's packages, in a tree of their own. Changes nothing of the host's.

    python -m tests.logs.packages

fetches those of them that this host has not installed, with what they depend on, and unpacks them in a folder of this
environment. It asks apt, whose lists it updates where they are too old or missing: that needs root. (rsyslog and
syslog-ng cannot be installed side by side; unpacked they can lie there, and a private machine has both.)
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

PACKAGES: Final = {"rsyslogd": "rsyslog", "syslog-ng": "syslog-ng-core", "lnav": "lnav", "jq": "jq"}
TREE: Final = Path(sys.prefix) / "debian"
SYSTEM: Final = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
APT_S: Final = 300.0


class CannotFetchError(Exception):
    """A package cannot be had here: one line."""


def program(name: str) -> Path | None:
    """Where a program is, the host's own before a fetched one; None where there is neither."""
    folders = [os.environ.get("PATH", ""), *SYSTEM, *(f"{TREE}{folder}" for folder in SYSTEM)]
    found = shutil.which(name, path=os.pathsep.join(folders))
    return None if found is None else Path(found)


def why_not(name: str) -> str | None:
    """Why a program cannot be run here, and what would provide it."""
    if program(name) is not None:
        return None
    return f"there is no {name}: install {PACKAGES[name]}, or fetch it with `python -m tests.logs.packages`"


def libraries() -> dict[str, str]:
    """What the environment of a fetched program needs, outside of a machine that has the tree over its root."""
    return {"LD_LIBRARY_PATH": os.pathsep.join(str(folder) for folder in TREE.glob("usr/lib/*-linux-*"))}


def fetch(names: list[str]) -> None:
    """Put these programs' packages into the tree; what it held before goes. Raises CannotFetchError."""
    TREE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TREE.parent, prefix="debian-") as folder:
        downloads, new = Path(folder) / "downloads", Path(folder) / "tree"
        downloads.mkdir()
        try:
            _download(names, downloads)
        except CannotFetchError:
            if os.geteuid() != 0:
                raise
            _apt("update")
            _download(names, downloads)
        for package in downloads.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, new], check=True)
        for name in ("bin", "sbin", "lib", "lib64"):  # links into /usr, where a host is not from before 2019
            if (new / name).exists():
                shutil.copytree(new / name, new / "usr" / name, symlinks=True, dirs_exist_ok=True)
                shutil.rmtree(new / name)
        shutil.rmtree(TREE, ignore_errors=True)
        new.rename(TREE)


def _download(names: list[str], folder: Path) -> None:
    """Each by itself, as if it alone were installed: some of them would remove others."""
    missing = {
        found
        for name in names
        for found in re.findall(
            r"^Inst (\S+)", _apt("install", "--simulate", "--no-install-recommends", PACKAGES[name]), re.MULTILINE
        )
    }
    _apt("download", *sorted(missing), cwd=folder)


def _apt(*arguments: str, cwd: Path | None = None) -> str:
    """What `apt-get` says."""
    try:
        done = subprocess.run(
            ["apt-get", "--quiet", *arguments],
            cwd=cwd,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=APT_S,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise CannotFetchError(f"cannot run apt-get: {error}") from error
    if done.returncode != 0:
        raise CannotFetchError(f"apt-get {' '.join(arguments)}: {' '.join(done.stderr.split())}")
    return done.stdout


def main() -> int:
    """Fetch what is missing, if anything is."""
    lacking = [name for name in PACKAGES if program(name) is None]
    try:
        if lacking:
            # All that the host itself has not: what was fetched before would go with the tree.
            fetch([name for name in PACKAGES if (found := program(name)) is None or found.is_relative_to(TREE)])
    except CannotFetchError as error:
        print(f"packages: {error}", file=sys.stderr)
        return 1
    for name in PACKAGES:
        print(f"packages: {program(name) or f'no {name}, though its package was fetched'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
