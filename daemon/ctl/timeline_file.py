"""The file that a picture is written to: whole or not at all. Knows nothing of what is in it."""

from __future__ import annotations

import os
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Final

from daemon import wire

ENDINGS: Final = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def written(output: Path) -> Iterator[IO[str]]:
    """A file that gets its name when it is whole. Raises wire.Refusal where it cannot be written.

    What has the name already is replaced, and its mode kept; where it is a link, what the link leads to. A pipe or a
    device is written to as it is.
    """
    try:
        with _as_it_is(output) if _is_special(output) else _renamed(output) as file:
            yield file
    except BrokenPipeError:  # whoever reads standard output has gone: that is not about this file
        raise
    except OSError as error:
        wrong = f"cannot write {output}: {(error.strerror or str(error)).lower()}; name another file with -o"
        raise wire.Refusal(wire.Code.REFUSED, wrong) from None


def _is_special(output: Path) -> bool:
    return output.exists() and not output.is_file()


@contextmanager
def _as_it_is(output: Path) -> Iterator[IO[str]]:
    with output.open("w", encoding="utf-8") as file:
        yield file


@contextmanager
def _renamed(output: Path) -> Iterator[IO[str]]:
    named = Path(os.path.realpath(output))
    with (
        tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=named.parent, prefix=f".{named.name}.", delete=False
        ) as file,
        _removed_by_signals(Path(file.name)),
    ):
        try:
            yield file
            file.flush()
            os.fchmod(file.fileno(), _mode(named))
            Path(file.name).replace(named)
        except BaseException:  # whatever it is goes on: only the half of a file must not be left
            Path(file.name).unlink()
            raise


def _mode(named: Path) -> int:
    """Its own, if it is there; else what any new file has."""
    try:
        return stat.S_IMODE(named.stat().st_mode)
    except FileNotFoundError:
        umask = os.umask(0o077)
        os.umask(umask)
        return 0o666 & ~umask


@contextmanager
def _removed_by_signals(half: Path) -> Iterator[None]:
    """Where a signal ends the process meanwhile, the file goes first."""

    def remove(number: int, _: FrameType | None) -> None:
        half.unlink(missing_ok=True)
        signal.signal(number, signal.SIG_DFL)  # whoever sent it sees that it was obeyed
        signal.raise_signal(number)

    heard = [number for number in ENDINGS if signal.getsignal(number) is signal.SIG_DFL]  # under nohup one is not
    for number in heard:
        signal.signal(number, remove)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)
