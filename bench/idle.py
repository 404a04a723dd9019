"""The daemon's own cost: processor and memory while nothing happens, and `status` under a thousand requests a second.

`python -m bench.idle`: about five minutes. Beside the latter, in the same run, a bare asyncio server that answers with
as many bytes (bench/echo.py): what is left of its latency is the host's and the client's.

These daemons start no fork server (`--launcher exec`): so the daemon is alone. By default there is one beside it, a
process that has TensorFlow imported and waits: its own figures are `fork_server`.
"""

from __future__ import annotations

import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench.figures import ROOT, Figures, run, spread
from bench.house import House, Line, cpu_s, house, memory_mb, request, result, stand_in
from bench.samples import SMALL, samples
from tests.chaos.processes import children

LANES: Final = 10
CLIENTS: Final = 50
REQUESTS_PER_S: Final = 1000
SLOW: Final = ("--item-ms", "50", "--commit-every", "100000")  # 20 reports a second, as much as a worker may say
SETTLE_S: Final = 6.0  # a start's own work: the socket, the record, the first readings
ANSWER_TIMEOUT_S: Final = 30.0
HEAD_BYTES: Final = 64  # of an answer: has it a result, or an error?


def measure(*, small: bool) -> Figures:
    """What the daemon costs while it does nothing, and how soon it answers when it is asked much."""
    quiet_s, asked_s = (1.0, 0.5) if small else (60.0, 20.0)
    figures: Figures = {}
    for name, gpus in (("processor_lane", 0), ("ten_gpu_lanes", LANES)):
        with house("--launcher", "exec", gpus=gpus) as daemon:
            figures[name] = quiet(daemon.pid, quiet_s, settle_s=0.5 if small else SETTLE_S)
            figures[name]["status"] = {"idle": asked(daemon.socket, daemon.pid, asked_s)}
            if not gpus:
                daemon.submit("\n".join(stand_in(f"s{n}", daemon.folder, *SLOW, items=10**6) for n in range(LANES)))
                daemon.event("session.started")
                figures[name]["status"]["one_running_nine_queued"] = asked(daemon.socket, daemon.pid, asked_s)
                figures["bare_server"] = bare(daemon, asked_s)
                _cancel_all(daemon)
            else:
                daemon.submit("\n".join(_on_lane(daemon.folder, n) for n in range(LANES)))
                daemon.event("session.started", times=LANES)
                time.sleep(0.5 if small else 3.0)
                figures[name]["all_running"] = quiet(daemon.pid, quiet_s / 2)
                _cancel_all(daemon)
    figures["fork_server"] = fork_server(quiet_s / 2)
    return figures


def _on_lane(folder: Path, index: int) -> str:
    return stand_in(f"s{index}", folder, *SLOW, items=10**6, device=f"gpu:{index}", memory="1GiB")


def _cancel_all(daemon: House) -> None:
    line = daemon.line()
    names = [row["name"] for row in line.ask("list")["sessions"]]
    line.ask("cancel", names=names)
    line.close()
    daemon.ended(*names)


def quiet(pid: int, seconds: float, *, settle_s: float = 0.0) -> Figures:
    """A process's share of a core, and its memory."""
    time.sleep(settle_s)
    began, used = time.monotonic(), cpu_s(pid)
    time.sleep(seconds)
    share = (cpu_s(pid) - used) / (time.monotonic() - began)
    return {"core_percent": round(100 * share, 3), **memory_mb(pid)}


def fork_server(seconds: float) -> Figures:
    """What stands beside a daemon with the default launcher, while nothing is asked of it."""
    (model, *_) = samples(SMALL)
    with house() as daemon:
        line = daemon.line()
        # Whoever looks into the model is forked from the server, and gone when the answer comes: so it has imported.
        line.ask("inspect", model=str(model.path))
        line.close()
        (server,) = (child.pid for child in children(daemon.pid) if child.is_fork_server)
        return quiet(server, seconds)


def bare(daemon: House, seconds: float) -> Figures:
    """The same, asked of a server that does nothing, with answers as long as the daemon's are now."""
    line = daemon.line()
    size = len(line.raw(request("status")))
    line.close()
    path = daemon.folder / "echo.sock"
    command = [sys.executable, "-m", "bench.echo", str(path), str(size)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            return asked(path, server.pid, seconds)
        finally:
            server.kill()


def asked(socket: Path, pid: int, seconds: float) -> Figures:
    """CLIENTS lines ask for `status`, each at its own times; seconds from when a request was due to its answer.

    From when it was due, not from when it could be sent: a daemon that stands still must not hide what waits. Every
    request that was due in these seconds counts, however late its answer. Raises RuntimeError where one has no result.
    """
    lines = [Line(socket) for _ in range(CLIENTS)]
    wanted = request("status")
    for line in lines:
        result(line.raw(wanted))
    interval = CLIENTS / REQUESTS_PER_S
    late: list[float] = []
    used = cpu_s(pid)
    with selectors.DefaultSelector() as selector:
        for line in lines:
            selector.register(line.socket, selectors.EVENT_READ, line)
        now = soon = began = time.monotonic()
        ends = began + seconds
        due = {line: began + interval * n / CLIENTS for n, line in enumerate(lines)}
        waiting: dict[Line, float] = {}
        heads: dict[Line, bytes] = {}
        while waiting or soon < ends:
            if now > ends + ANSWER_TIMEOUT_S:
                raise RuntimeError(f"{len(waiting)} requests have no answer after {ANSWER_TIMEOUT_S:.0f} s")
            for line, at in due.items():
                if at <= now and at < ends and line not in waiting:
                    line.socket.sendall(wanted)
                    waiting[line], heads[line] = at, b""
                    due[line] = at + interval
            soon = min((at for line, at in due.items() if line not in waiting), default=ends)
            for key, _ in selector.select(max(0.0, min(soon - time.monotonic(), 0.01))):
                if _answered(key.data, heads):
                    late.append(time.monotonic() - waiting.pop(key.data))
                    soon = min(soon, due[key.data])
            now = time.monotonic()
        lasted = now - began
    used = cpu_s(pid) - used
    for line in lines:
        line.close()
    return {
        "latency_s": spread(late),
        "answered_per_s": round(len(late) / lasted, 1),
        "core_percent": round(100 * used / lasted, 1),
    }


def _answered(line: Line, heads: dict[Line, bytes]) -> bool:
    """Take what has come; whether the answer is whole. Only its head is looked at: to parse it would take too long."""
    part = line.socket.recv(1 << 20)
    if not part:
        raise RuntimeError("a line was closed that waits for its answer")
    heads[line] = (heads[line] + part)[:HEAD_BYTES]
    if part[-1:] != b"\n":
        return False
    if b'"result"' not in heads[line]:
        raise RuntimeError(f"no result: {heads[line]!r}")
    return True


if __name__ == "__main__":
    run("idle", measure, takes="about five minutes")
