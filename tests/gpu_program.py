"""A `run` program that holds memory of a stand-in GPU, and counts items. Standard library and baton.py only.

    python gpu_program.py --name a --items 200 --bytes 4000000000 --ledger FILE --prepare
        [--claim before|after]  [--load-s S]  [--item-ms MS]  [--commit-every N]  [--hold-s S]
        [--grow-at ITEM --grow-bytes N]

It needs what nvml_stand_in.StandIn.variables() says in its environment, and CUDA_VISIBLE_DEVICES, as batond sets it:
the UUID of the device; where that is empty it claims nothing. With --prepare it is a session of baton's, and claims its
bytes before ready() (a standby then holds them) or after; it commits, and resumes at its cursor. Without, it knows
nothing of batond, and resumes at what its ledger says.

A claim is made under a lock on the device, against what the stand-in library itself says is free: of two programs that
together want more than there is, the later one is out of memory. It then prints `out of memory`, and exits with 17.
Memory is given back by dying, and by nothing else: --hold-s keeps it for so long after the last item.

The ledger gets a JSON line for each `load`, `claim`, `oom`, `ready`, `started`, `item` and `end`, with the program's
name, pid and `at`, time.monotonic(): so it can be told who held what at one time. `lines` and `items` read it.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXIT_OUT_OF_MEMORY = 17


class OutOfMemory(MemoryError):  # noqa: N818 - what the field calls it
    """The device has less than was asked for. baton.py reports a MemoryError as `memory`."""


class Ledger:
    """Lines that stay, whoever dies next."""

    def __init__(self, path: Path, name: str) -> None:
        self._name = name
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def tell(self, what: str, **fields: int | str | bool) -> None:
        """One line, in one write."""
        line = {"what": what, "name": self._name, "pid": os.getpid(), "at": time.monotonic(), **fields}
        os.write(self._fd, json.dumps(line).encode() + b"\n")

    def counted(self) -> int:
        """The items of this program that it has already."""
        return len(items(lines(self._path), self._name))


def lines(ledger: Path) -> list[dict[str, Any]]:
    """What is in a ledger by now. A line that is being written is left out."""
    return [json.loads(line) for line in ledger.read_text().splitlines(keepends=True) if line.endswith("\n")]


def items(ledger: Iterable[dict[str, Any]], name: str) -> list[int]:
    """The items of that program in the order they were computed: what a resumed run computes anew counts once.

    That is what rows of an output that is cut to its cursor would be. Right is 0, 1, 2, … and nothing else.
    """
    kept: list[int] = []
    for line in ledger:
        if line["name"] == name and line["what"] == "started":
            del kept[line["cursor"] :]
        elif line["name"] == name and line["what"] == "item":
            kept.append(line["item"])
    return kept


class Card:
    """The device under this process, asked by the stand-in library: the same arithmetic for all who look."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._held = 0
        self._folder = Path(os.environ["FAKE_NVML"]).parent / "claims"
        self._folder.mkdir(exist_ok=True)
        self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self._ask("nvmlInitWithFlags", 0)
        self._handle = ctypes.c_void_p()
        self._ask("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(self._handle))

    def _ask(self, function: str, *arguments: object) -> None:
        answer = getattr(self._nvml, function)(*arguments)
        if answer != 0:
            sys.exit(f"{function} of the stand-in library says {answer}")

    def free(self) -> int:
        """Bytes."""
        memory = (ctypes.c_ulonglong * 3)()
        self._ask("nvmlDeviceGetMemoryInfo", self._handle, memory)
        return int(memory[1])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._folder / f".{self._uuid}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def take(self, size: int, ledger: Ledger) -> None:
        """Hold so much more of it, until this process ends. Raises OutOfMemory."""
        with self._alone():
            free = self.free()
            if size > free:
                ledger.tell("oom", bytes=size, free=free)
                raise OutOfMemory(f"out of memory: {size} bytes asked for, {free} are free")
            self._held += size
            partial = self._folder / f".{self._uuid}.{os.getpid()}"
            partial.write_text(f"{self._held} compute\n")
            partial.rename(self._folder / f"{self._uuid}.{os.getpid()}")
            ledger.tell("claim", bytes=size, held=self._held, free=free, uuid=self._uuid)


class Work:
    """The items, one after the other, and the memory they grow by."""

    def __init__(self, options: argparse.Namespace, ledger: Ledger, card: Card | None) -> None:
        self._options = options
        self._ledger = ledger
        self._card = card

    def claim(self, when: str) -> None:
        """Take the memory, if this is the moment for it."""
        if self._card is not None and self._options.claim == when and self._options.bytes:
            self._card.take(self._options.bytes, self._ledger)

    def item(self, number: int) -> None:
        """Compute one."""
        if number == self._options.grow_at and self._card is not None:
            self._card.take(self._options.grow_bytes, self._ledger)
        time.sleep(self._options.item_ms / 1000)
        self._ledger.tell("item", item=number)


def _with_baton(work: Work, options: argparse.Namespace, ledger: Ledger) -> None:
    import baton  # only here: without --prepare this is a program that knows nothing of batond

    with baton.session() as session:
        ledger.tell("load", cursor=session.cursor)
        time.sleep(options.load_s)
        work.claim("before")
        ledger.tell("ready", cursor=session.cursor)
        session.ready(options.items)
        work.claim("after")
        ledger.tell("started", cursor=session.cursor)
        done = session.cursor
        for item in session.track(range(done, options.items), options.items):
            work.item(item)
            done = item + 1
            if done % options.commit_every == 0:
                session.commit(done)
        session.commit(done)
        ledger.tell("end", done=done, drained=session.draining)
    time.sleep(options.hold_s)


def _alone(work: Work, options: argparse.Namespace, ledger: Ledger) -> None:
    done = ledger.counted()
    ledger.tell("load", cursor=done)
    time.sleep(options.load_s)
    work.claim("before")
    work.claim("after")
    ledger.tell("started", cursor=done)
    for item in range(done, options.items):
        work.item(item)
    ledger.tell("end", done=options.items, drained=False)
    time.sleep(options.hold_s)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--item-ms", type=float, default=5.0)
    parser.add_argument("--bytes", type=int, default=0)
    parser.add_argument("--claim", choices=("before", "after"), default="before")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--load-s", type=float, default=0.0)
    parser.add_argument("--hold-s", type=float, default=0.0)
    parser.add_argument("--commit-every", type=int, default=10)
    parser.add_argument("--grow-at", type=int, default=-1)
    parser.add_argument("--grow-bytes", type=int, default=0)
    options = parser.parse_args()
    ledger = Ledger(options.ledger, options.name)
    uuid = os.environ.get("CUDA_VISIBLE_DEVICES")
    work = Work(options, ledger, Card(uuid) if uuid else None)
    try:
        (_with_baton if options.prepare else _alone)(work, options, ledger)
    except OutOfMemory as error:
        print(error, flush=True)
        sys.exit(EXIT_OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
