"""What a client sends: whole lines, bounded in length and time; JSON, bounded in depth. Knows no method."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec

from daemon import wire
from daemon.wire import Code, Refusal


@dataclass(slots=True)
class Lines:
    """The lines of one connection, bounded in length and time."""

    reader: asyncio.StreamReader
    line_bytes: int
    idle_s: float  # between two lines
    line_s: float  # from a line's first byte to its last
    _buffer: bytearray = field(default_factory=bytearray)

    async def read(self) -> bytes | None:
        """The next line that is not blank; None at the end, also after too long a silence. Raises Refusal."""
        now = asyncio.get_running_loop().time
        began = now() if self._buffer else None
        seen = 0
        while True:
            end = self._buffer.find(b"\n", seen)
            if max(end, len(self._buffer) if end < 0 else 0) > self.line_bytes:
                limit = f"a line may have {self.line_bytes} bytes, this one has more"
                raise Refusal(Code.TOO_LARGE, limit)
            if end >= 0:
                line = bytes(self._buffer[:end]).strip()
                del self._buffer[: end + 1]
                if line:
                    return line
                self._drop_blank()
                seen, began = 0, now() if self._buffer else None
                continue
            seen = len(self._buffer)
            try:
                patience = self.idle_s if began is None else max(0.0, began + self.line_s - now())
                # Not wait_for: in Python 3.11 it forgets a cancellation that comes together with what it waits for.
                async with asyncio.timeout(patience):
                    chunk = await self.reader.read(1 << 16)
            except TimeoutError:
                if began is None:
                    return None
                slow = f"the line was not complete after {self.line_s:g} s"
                raise Refusal(Code.INVALID_REQUEST, slow) from None
            if not chunk:  # what is left is a line without its newline, or half of one, which is no JSON then
                rest = bytes(self._buffer).strip()
                self._buffer.clear()
                return rest or None
            began = now() if began is None else began
            self._buffer += chunk

    def _drop_blank(self) -> None:
        """Blank lines, thousands of them in one read, are nothing to go through one by one."""
        del self._buffer[: len(self._buffer) - len(self._buffer.lstrip())]

    async def drop(self) -> None:
        """Read and forget until the client hangs up."""
        while await self.reader.read(1 << 16):
            continue


def decoded(text: bytes | msgspec.Raw, kind: Any) -> Any:
    """The value in a piece of JSON. Raises Refusal where it is none, ValidationError where it is of another kind.

    How deep it may be nested depends on how deep the caller is: what one could read may be too deep for the next.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        if kind is not Any:
            raise
        raise Refusal(Code.PARSE_ERROR, f"the line is not JSON: {error}") from None  # a number beyond all bounds
    except RecursionError:
        raise Refusal(Code.PARSE_ERROR, "the line is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(Code.PARSE_ERROR, f"the line is not JSON: {error}") from None


def identity_of(line: bytes) -> wire.Id:
    """The id of something that is not a request, if it has one: its sender may be waiting for it."""
    try:
        message = decoded(line, Any)
    except Refusal:
        return None
    identity = message.get("id") if isinstance(message, dict) else None
    return identity if isinstance(identity, (int, float, str)) and not isinstance(identity, bool) else None
