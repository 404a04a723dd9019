"""A client of the control socket: blocking, one request at a time. Prints nothing, exits nowhere."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from daemon import wire
from daemon.results import VersionResult

T = TypeVar("T", bound=msgspec.Struct)
CONNECT_TIMEOUT_S = 5.0
START = "start it with `batond`, or name its --socket"
SERVICE_SOCKET = "/run/batond/control.sock"
SERVICE_START = "start it with `systemctl start batond.socket`, or name another --socket"
# Where systemd looks for it, and where an installation puts it.
SERVICE_UNITS = tuple(
    f"{folder}/systemd/system/batond.socket" for folder in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
)
ANSWER_TIMEOUT_S = 60.0
SILENCE_SHARE = 30  # of the time that an answer is waited for, after which silence is told: 2 s of the usual 60
SUBMIT_TIMEOUT_S = 900.0  # models are looked into, one after the other, by a process with TensorFlow


class UnreachableError(Exception):
    """No daemon answers: one line for a person."""


def find_socket(given: str | None, environ: Mapping[str, str]) -> str:
    """The socket to talk to: the one given, else the first that exists of the places a daemon takes (see config).

    Where none does, the service's if it is installed: nobody is to start a second daemon beside it.
    """
    if given:
        return given
    state = environ.get("XDG_STATE_HOME") or environ.get("HOME", "") + "/.local/state"
    paths = [state + "/batond/control.sock", SERVICE_SOCKET]
    if session := environ.get("XDG_RUNTIME_DIR"):
        paths.insert(0, session + "/batond/control.sock")
    if runtime := environ.get("RUNTIME_DIRECTORY"):
        paths.insert(0, runtime.split(":")[0] + "/control.sock")
    there = next((path for path in paths if os.path.exists(path)), None)  # noqa: PTH110 pathlib costs 10 ms
    return there or (SERVICE_SOCKET if of_service(SERVICE_SOCKET) else paths[0])


def of_service(path: str) -> bool:
    """Whether systemd holds the socket at this path, or would: batond is installed as a service, running or not."""
    return path == SERVICE_SOCKET and any(os.path.exists(unit) for unit in SERVICE_UNITS)  # noqa: PTH110


class Client:
    """One connection. `call` returns the result decoded; `raw` is the last result as it came.

    `on_silence` is called, once a request, where nothing has come for a while: with how long it waited, and how long it
    waits at most.
    """

    def __init__(self, path: str) -> None:
        """Connect. Raises UnreachableError."""
        self.path = path
        self._buffer = b""
        self._sent = 0
        self.raw = b""
        self.on_silence: Callable[[float, float], None] | None = None
        self._silence_told = False
        if len(os.fsencode(path)) > wire.PATH_LIMIT_BYTES:
            raise self._unreachable(f"a socket's path may have {wire.PATH_LIMIT_BYTES} bytes, this one has more")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A Unix socket that does not block refuses at once where the queue of connections is full; this one waits.
        patience = struct.pack("@ll", *divmod(round(CONNECT_TIMEOUT_S * 1e6), 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise self._unreachable(_why(error), _remedy(error, path)) from None

    def _unreachable(self, why: str, remedy: str = START) -> UnreachableError:
        return UnreachableError(f"cannot reach batond at {self.path}: {why}; {remedy}")

    def call(self, method: str, params: wire.Params, result: type[T], timeout_s: float = ANSWER_TIMEOUT_S) -> T:
        """Ask and wait for the answer.

        Raises wire.Refusal for an error, UnreachableError when the daemon is gone, msgspec.DecodeError where what
        answers is no batond.
        """
        self._sent += 1
        line = _encoded(method, params, self._sent)
        if len(line) > wire.LINE_LIMIT_BYTES:
            limit = f"the request has {len(line)} bytes; batond takes {wire.LINE_LIMIT_BYTES}: split it into several"
            raise wire.Refusal(wire.Code.TOO_LARGE, limit)
        self._socket.settimeout(timeout_s)
        self._silence_told = False
        try:
            self._socket.sendall(line)
        except OSError as error:
            if not self._refused_at_once():
                raise self._lost(_why(error)) from None
        answer = msgspec.json.decode(self._line(), type=wire.Response)
        if isinstance(answer.error, wire.ErrorObject):
            data = answer.error.data
            problems = data.problems if isinstance(data, wire.Problems) else ()
            raise wire.Refusal(_code(answer.error.code), answer.error.message, problems)
        if isinstance(answer.result, msgspec.UnsetType):
            raise msgspec.ValidationError("an answer has neither a result nor an error")
        self.raw = bytes(answer.result)
        return msgspec.json.decode(self.raw, type=result)

    def daemon_pid(self) -> int | None:
        """The daemon's process; None where it cannot be told from here: in another PID namespace, or not the listener.

        (A service manager that listens for the daemon is the peer, as the kernel has it.)
        """
        peer = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid = int(struct.unpack("3i", peer)[0])
        return pid if pid == self.call("version", wire.Params(), VersionResult).pid else None

    def notices(self, patience_s: float | None = ANSWER_TIMEOUT_S) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """What follows the answer to a stream, as it came and decoded, until the daemon ends it. Blocks.

        patience_s: for the next one, before UnreachableError is raised; None where it may take for ever.
        """
        self._socket.settimeout(patience_s)
        while True:
            line = self._line(ends=True)
            if not line:
                return
            raw = bytes(msgspec.json.decode(line, type=wire.Notification).params)
            yield raw, msgspec.json.decode(raw, type=dict[str, Any])

    def _refused_at_once(self) -> bool:
        """Whether an answer lies there although the request could not be sent: too many clients."""
        try:
            self._buffer += self._socket.recv(1 << 16)
        except OSError:
            return False
        return b"\n" in self._buffer

    def _line(self, *, ends: bool = False) -> bytes:
        pieces = [self._buffer]
        while b"\n" not in pieces[-1]:
            try:
                self._watch_silence()
                chunk = self._socket.recv(1 << 16)
            except TimeoutError:
                waited = self._socket.gettimeout() or 0.0
                raise self._lost(f"no answer in {waited:.0f} s; its log may say why") from None
            except OSError as error:
                raise self._lost(_why(error)) from None
            if not chunk:
                if ends:
                    return b""
                raise self._lost("it closed the connection")
            pieces.append(chunk)
        line, _, self._buffer = b"".join(pieces).partition(b"\n")
        return line

    def _watch_silence(self) -> None:
        """Wait for what comes next, until that takes so long that somebody should know."""
        patience_s = self._socket.gettimeout()
        if self.on_silence is None or self._silence_told or patience_s is None:
            return
        quiet_s = patience_s / SILENCE_SHARE
        if not select.select([self._socket], [], [], quiet_s)[0]:
            self._silence_told = True
            self.on_silence(quiet_s, patience_s)

    def _lost(self, why: str) -> UnreachableError:
        return UnreachableError(f"lost batond at {self.path}: {why}")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def again(client: Client) -> Client:
    """Another connection to where this one was; the same one, where nobody takes it."""
    try:
        found = Client(client.path)
    except UnreachableError:
        return client
    found.on_silence = client.on_silence
    client.close()
    return found


def gone(pid: int, timeout_s: float) -> bool:
    """Wait until a process is gone; False where it is still there after so many seconds."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)


def _encoded(method: str, params: wire.Params, identity: int) -> bytes:
    """The request's line. Raises wire.Refusal for a name that is not UTF-8, as a file's may be."""
    try:
        return wire.encode_request(method, params, identity)
    except UnicodeEncodeError as error:
        shown = error.object.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        refused = f"{method}: '{shown}' is not UTF-8, which batond's protocol is: rename it"
        raise wire.Refusal(wire.Code.INVALID_PARAMS, refused) from None


def _code(number: int) -> wire.Code:
    return wire.Code(number) if number in wire.Code._value2member_map_ else wire.Code.INTERNAL


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no socket"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there any more"
    if isinstance(error, PermissionError):
        return "you may not connect to it"
    if error.errno == errno.EAGAIN:
        return "it is busy"
    return (error.strerror or str(error)).lower()


def _remedy(error: OSError, path: str) -> str:
    if isinstance(error, PermissionError):
        return "whoever is in its group may: `usermod -aG GROUP USER`, and log in again"
    if error.errno == errno.EAGAIN:
        return "try again"
    return SERVICE_START if of_service(path) else START
