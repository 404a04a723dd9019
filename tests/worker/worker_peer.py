"""The daemon's end of a worker's socket, and the process host behind it, for tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0
HERE = Path(__file__).parent

Message = dict[str, Any]


class Peer:
    """Speaks to one worker as the daemon does, and keeps all it says."""

    def __init__(self, line: socket.socket) -> None:
        line.settimeout(TIMEOUT_S)
        self.line = line
        self.stream = line.makefile("rb")
        self.heard: list[Message] = []
        self.pid = 0

    def say(self, type_: str, **fields: Any) -> None:
        self.line.sendall(json.dumps({"type": type_, **fields}).encode() + b"\n")

    def assign(
        self,
        spec: Message,
        *,
        tier: str = "warm",
        cursor: int = 0,
        resume: bool = False,
        submission: str = "",
        rejoin: Message | None = None,
    ) -> None:
        self.say(
            "assign",
            protocol=1,
            session=spec["name"],
            generation=7,
            tier=tier,
            cursor=cursor,
            resume=resume,
            submission=submission,
            device={"kind": "cpu", "index": None, "uuid": None, "memory_limit_bytes": None},
            spec=spec,
            rejoin=rejoin,
        )

    def hear(self) -> Message | None:
        """The next message, None at the end of the line."""
        try:
            line = self.stream.readline()
        except ConnectionResetError:  # it died with a line of ours unread
            return None
        if not line:
            return None
        self.heard.append(json.loads(line))
        return self.heard[-1]

    def until(self, type_: str, **least: int) -> Message:
        """Listen up to a message of that type, with each key at `least` that much."""
        while (message := self.hear()) is not None:
            if message["type"] == type_ and all(message[key] >= value for key, value in least.items()):
                return message
        raise AssertionError(f"no {type_} in {self.heard}")

    def rest(self) -> list[str]:
        """Listen to the end of the line. The types of everything heard, progress left out."""
        while self.hear() is not None:
            pass
        return self.types()

    def types(self) -> list[str]:
        return [message["type"] for message in self.heard if message["type"] != "progress"]

    def answers(self) -> list[Message]:
        """An inspector's, one for each spec; what it says on the way to them left out."""
        return [message for message in self.heard if message["type"] == "inspected"]

    def one(self, type_: str) -> Message:
        """The only message of that type."""
        (message,) = [message for message in self.heard if message["type"] == type_]
        return message

    def hang_up(self) -> None:
        self.line.shutdown(socket.SHUT_RDWR)


class Host:
    """Starts workers by forking a process that has TensorFlow imported."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line = ours
        self.line.settimeout(TIMEOUT_S)
        self.log = folder / "workers.log"
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        program = [sys.executable, str(HERE / "worker_host.py"), str(theirs.fileno())]
        self.process = subprocess.Popen(program, pass_fds=[theirs.fileno()], env=environment)
        theirs.close()
        self.threads = self._answer()["threads"]
        self.running: set[int] = set()

    def _answer(self) -> Message:
        answer: Message = json.loads(self.line.recv(1 << 16))
        return answer

    def call(self, module: str, function: str, *arguments: Any, fd: int | None = None) -> int:
        request = json.dumps({"call": [module, function, *arguments], "log": str(self.log)}).encode()
        socket.send_fds(self.line, [request], [] if fd is None else [fd])
        pid = int(self._answer()["pid"])
        self.running.add(pid)
        return pid

    def worker(self, entry: str = "serve") -> Peer:
        return self.attached("daemon.worker.main", entry)

    def attached(self, module: str, function: str, *arguments: Any) -> Peer:
        """The other end of a line to a child in that function, which gets the descriptor last."""
        ours, theirs = socket.socketpair()
        peer = Peer(ours)
        with theirs:
            peer.pid = self.call(module, function, *arguments, fd=theirs.fileno())
        return peer

    def status(self, pid: int) -> int:
        """Wait for the process's end. Its exit status, negative for a signal."""
        self.line.send(json.dumps({"wait": pid}).encode())
        status = int(self._answer()["status"])
        self.running.discard(pid)
        return status

    def close(self) -> None:
        for pid in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.line.close()
        self.process.wait(TIMEOUT_S)
