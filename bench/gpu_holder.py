"""Holds memory of one GPU, as a session of batond's or by itself; needs nothing but the driver. Measures nothing.

    python bench/gpu_holder.py --holder cuda --bytes N                    # says `held`, ends when its input does
    python bench/gpu_holder.py --holder cuda --bytes N --items K --name S --ledger FILE    # as a `run` program

The device is the one that CUDA_VISIBLE_DEVICES shows. `stand-in` holds memory of the tests' stand-in GPU, where there
is no context: CONTEXT_BYTES stand for it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import baton
from tests.gpu_program import EXIT_OUT_OF_MEMORY, Card, Ledger, OutOfMemory

CONTEXT_BYTES: Final = 256 << 20
CUDA_ERROR_OUT_OF_MEMORY: Final = 2
COMMIT_EVERY: Final = 100


class CudaCard:
    """The first device that CUDA shows this process, by libcuda alone. Making it makes its primary context."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            sys.exit(f"cannot hold memory of a GPU: {error}; install NVIDIA's driver")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._ask("cuInit", ctypes.c_uint(0))
        self._ask("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self._ask("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._ask("cuCtxSetCurrent", context)

    def _ask(self, function: str, *arguments: object, size: int = 0) -> None:
        answer = getattr(self._cuda, function)(*arguments)
        if answer == CUDA_ERROR_OUT_OF_MEMORY:
            self._ledger.tell("oom", bytes=size)
            raise OutOfMemory(f"out of memory: {function} of {size} bytes")
        if answer != 0:
            sys.exit(f"{function} of libcuda says {answer}; see cudaError_enum in cuda.h")

    def take(self, size: int) -> None:
        """Hold so much more of it, until this process ends. Raises OutOfMemory."""
        if size:
            pointer = ctypes.c_uint64()
            self._ask("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size), size=size)
        self._ledger.tell("claim", bytes=size)


class StandInCard:
    """The same of a stand-in GPU."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._card = Card(os.environ["CUDA_VISIBLE_DEVICES"])
        self._card.take(CONTEXT_BYTES, ledger)

    def take(self, size: int) -> None:
        """Hold so much more of it, until this process ends. Raises OutOfMemory."""
        self._card.take(size, self._ledger)


def hold(options: argparse.Namespace, ledger: Ledger) -> None:
    """Until nobody is there to keep it."""
    card = CARDS[options.holder](ledger)
    card.take(options.bytes)
    print("held", flush=True)
    sys.stdin.read()


def serve(options: argparse.Namespace, ledger: Ledger) -> None:
    """As a session, that is prepared when its memory is taken."""
    with baton.session() as session:
        card = CARDS[options.holder](ledger)
        card.take(options.bytes)
        session.ready(options.items)
        done = session.cursor
        for item in session.track(range(done, options.items), options.items):
            time.sleep(options.item_ms / 1000)
            done = item + 1
            if done % COMMIT_EVERY == 0:
                session.commit(done)
        session.commit(done)
    ledger.tell("end", done=done)


CARDS: Final[dict[str, type[CudaCard | StandInCard]]] = {"cuda": CudaCard, "stand-in": StandInCard}


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--holder", choices=CARDS, default="cuda")
    parser.add_argument("--bytes", type=int, default=0)
    parser.add_argument("--items", type=int)
    parser.add_argument("--item-ms", type=float, default=5.0)
    parser.add_argument("--name", default="holder")
    parser.add_argument("--ledger", type=Path, default=Path(os.devnull))
    options = parser.parse_args()
    ledger = Ledger(options.ledger, options.name)
    try:
        (hold if options.items is None else serve)(options, ledger)
    except OutOfMemory as error:
        print(error, flush=True)
        sys.exit(EXIT_OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
