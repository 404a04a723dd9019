"""How processes are started, what they hold, and how their end is learned: real forks, execs and signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from daemon import inspectors, priority
from daemon import nursery as nursery_module
from daemon.launchers import ForkServer, execute
from daemon.nursery import Nursery
from daemon.processes import CannotStartError, Process
from daemon.sessionfile import DeviceAssignment, SessionSpec
from states.events import Committed, Exited, Hello, Ready
from tests.shell.crew_scene import CPU, TIMEOUT_S, Scene, in_loop

NOWHERE = SessionSpec(name="m", model="/no/model", input="/no/input.npy", output="/no/output")


class Child:
    """One child of a fork server, with our end of its channel."""

    def __init__(self, process: Process, line: socket.socket, log: Path) -> None:
        self.process = process
        self.log = log
        self._line = line

    async def hear(self) -> Any:
        return json.loads(await asyncio.get_running_loop().sock_recv(self._line, 1 << 16))

    def say(self, **order: int) -> None:
        self._line.send(json.dumps(order).encode())

    def tell(self, text: str) -> None:
        self._line.send(text.encode())

    def hang_up(self) -> None:
        self._line.close()


@contextlib.asynccontextmanager
async def server(folder: Path, *modules: str) -> AsyncIterator[ForkServer]:
    made = ForkServer(modules or ("tests.shell.forked",), folder / "server.log")
    assert await made.start() is None, (folder / "server.log").read_text()
    yield made
    made.close()


async def fork(made: ForkServer, folder: Path, entry: str = "obey", **environment: str) -> Child:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    log = folder / "child.log"
    with theirs, log.open("ab") as file:
        process = await made.fork(f"tests.shell.forked:{entry}", environment, theirs, file.fileno())
    return Child(process, ours, log)


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():  # noqa: ASYNC110 - of other processes, which set no event here
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("order", "status"), [({"exit": 0}, 0), ({"exit": 3}, 3), ({"exit": 255}, 255), ({"signal": 9}, -9)]
)
@in_loop
async def test_a_forked_child_s_status_is_its_code_or_its_signal(
    tmp_path: Path, order: dict[str, int], status: int
) -> None:
    async with server(tmp_path) as made:
        child = await fork(made, tmp_path)
        child.say(**order)
        assert await child.process.exited == status


@in_loop
async def test_when_the_fork_server_dies_its_children_live_and_their_status_is_unknown(tmp_path: Path) -> None:
    async with server(tmp_path) as made:
        child = await fork(made, tmp_path, "hold")
        await child.hear()
        assert made.pid is not None
        os.kill(made.pid, signal.SIGKILL)
        await until(lambda: not made.alive)
        assert not child.process.exited.done()
        assert not gone(child.process.pid)
        with pytest.raises(CannotStartError, match="is gone"):
            await fork(made, tmp_path)
        child.process.signal_group(signal.SIGKILL)
        assert await child.process.exited is None


@in_loop
async def test_a_child_s_status_is_given_up_when_the_fork_server_does_not_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.processes.STATUS_TIMEOUT_S", 0.05)
    async with server(tmp_path) as made:
        child = await fork(made, tmp_path, "hold")
        await child.hear()
        assert made.pid is not None
        os.kill(made.pid, signal.SIGSTOP)
        child.process.signal_group(signal.SIGKILL)
        assert await child.process.exited is None
        os.kill(made.pid, signal.SIGKILL)


@in_loop
async def test_when_the_daemon_s_end_is_closed_the_server_ends_and_its_children_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.processes.STATUS_TIMEOUT_S", 1e6)  # nobody is waited for who is not there
    async with server(tmp_path) as made:
        child = await fork(made, tmp_path, "hold")
        await child.hear()
        pid = made.pid
        assert pid is not None
        made.close()
        await until(lambda: gone(pid))
        assert not gone(child.process.pid)
        child.hang_up()
        assert await child.process.exited is None


@in_loop
async def test_a_forked_child_holds_its_channel_and_its_log_and_nothing_else(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as daemon_s, (tmp_path / "daemon.db").open("w") as file:
        os.set_inheritable(daemon_s.fileno(), True)
        os.set_inheritable(file.fileno(), True)
        async with server(tmp_path) as made:
            first = await fork(made, tmp_path, "hold")
            await first.hear()
            child = await fork(made, tmp_path)  # of a server that has the first one's pidfd
            told = await child.hear()
            log = str(child.log)
            channel = str(told["channel"])
            assert told["descriptors"].pop(channel).startswith("socket:")
            assert told["descriptors"] == {"0": "/dev/null", "1": log, "2": log}
            child.say(exit=0)
            await child.process.exited
            first.process.signal_group(signal.SIGKILL)
            await first.process.exited


@in_loop
async def test_a_forked_child_is_a_process_as_any_other(tmp_path: Path) -> None:
    async with server(tmp_path) as made:
        child = await fork(made, tmp_path, CUDA_VISIBLE_DEVICES="GPU-1")
        told = await child.hear()
        assert told["session"] == child.process.pid
        assert told["threads"] == 1
        assert told["default"] == [True, True, True]
        assert told["blocked"] == 0
        assert told["frozen"] > 1000, "else its first full collection copies every page it shares with the server"
        assert told["visible"] == "GPU-1"
        assert told["main"].endswith("daemon/worker/forkserver.py"), "not the daemon's own __main__"
        child.say(exit=0)
        await child.process.exited
        assert child.log.read_text() == "to stdout\nto stderr\n"


@pytest.mark.skipif(not priority.autogroup_counts(), reason="needs CONFIG_SCHED_AUTOGROUP")
@in_loop
async def test_an_ordinary_user_may_lower_and_raise_a_process_session_but_not_at_once(tmp_path: Path) -> None:
    async with server(tmp_path) as made:
        child = await fork(made, tmp_path, "ordinary_user")
        low, normal, again = await child.hear()
        assert (low, normal) == (19, 0)
        assert again > 0, "the kernel's answer to a change soon after another is 'again'"
        await child.process.exited


@in_loop
async def test_the_log_is_appended_to(tmp_path: Path) -> None:
    async with server(tmp_path) as made:
        (tmp_path / "child.log").write_text("before\n")
        child = await fork(made, tmp_path)
        child.say(exit=0)
        await child.process.exited
        assert child.log.read_text() == "before\nto stdout\nto stderr\n"


@in_loop
async def test_what_a_forked_child_leaves_behind_is_killed(tmp_path: Path) -> None:
    async with server(tmp_path) as made:
        child = await fork(made, tmp_path)
        await child.hear()
        child.say(leave=1)
        straggler = await child.hear()
        await child.process.exited
        await until(lambda: gone(straggler))


@in_loop
async def test_what_an_executed_program_leaves_behind_is_killed(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    left = "import os,subprocess; print(subprocess.Popen(['sleep', '1000']).pid, flush=True)"
    with ours, theirs, (tmp_path / "log").open("ab") as log:
        process = await execute((sys.executable, "-S", "-c", left), os.environ, theirs, log.fileno())
    assert await process.exited == 0
    straggler = int((tmp_path / "log").read_text())
    await until(lambda: gone(straggler))


@in_loop
async def test_no_group_is_signalled_once_its_number_is_another_process_s(tmp_path: Path) -> None:
    """The leader's number as good as reused: a process with it is there, and is not the one that was started."""
    async with server(tmp_path) as made:
        bystander = await fork(made, tmp_path, "hold")
        await bystander.hear()
        child = await fork(made, tmp_path)
        child.say(exit=0)
        await child.process.exited
        assert bystander.process.started is not None
        child.process.pid, child.process.started = bystander.process.pid, bystander.process.started - 1
        child.process.signal_group(signal.SIGKILL)
        assert child.process.group() == ()
        bystander.hang_up()
        assert await bystander.process.exited == 0


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("tests.shell.threaded", "it has 2 threads after the import"),
        ("tests.shell.no_such_module", "cannot import tests.shell.no_such_module: ModuleNotFoundError"),
        ("tests.shell.mortal", "it died while it imported tests.shell.mortal"),
    ],
)
@in_loop
async def test_a_fork_server_that_is_not_safe_is_not_used_and_that_is_said_once(
    tmp_path: Path, module: str, why: str
) -> None:
    said: list[str] = []
    nursery = Nursery(tmp_path / "n", say=said.append, preload=(module,))
    await nursery.warm()
    await nursery.warm()
    assert not nursery.forks
    assert nursery.server_pid is None
    (line,) = said
    assert line.startswith("cannot use the fork server: ")
    assert why in line


@in_loop
async def test_a_fork_server_that_dies_is_started_again_but_not_for_ever(tmp_path: Path) -> None:
    said: list[str] = []
    nursery = Nursery(tmp_path / "n", say=said.append, preload=("json",))
    for _ in range(3):
        await nursery.warm()
        pid = nursery.server_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: nursery.server_pid is None)
    await nursery.warm()
    assert said == [
        "cannot use the fork server: it died 3 times; each worker imports TensorFlow itself, which takes seconds"
    ]
    assert not nursery.forks


@in_loop
async def test_a_program_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    refused = pytest.raises(CannotStartError, match=r"^cannot start /no/such/program: No such file or directory$")
    with ours, theirs, (tmp_path / "log").open("ab") as log, refused:
        await execute(("/no/such/program",), {}, theirs, log.fileno())


@in_loop
async def test_a_run_program_finds_baton_and_nothing_else_of_batond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("PYTHONPATH", "/of/the/user")
    code = (
        "import os, sys, baton; print(os.listdir(os.path.dirname(baton.__file__)));"
        "print('NOTIFY_SOCKET' in os.environ, repr(os.environ['CUDA_VISIBLE_DEVICES']), '/of/the/user' in sys.path);"
        "print(any(os.path.isdir(p + '/daemon') for p in sys.path if p), os.getcwd(), os.getsid(0) == os.getppid());"
        "print(sorted(n for n in os.listdir('/proc/self/fd')\n"
        "  if os.path.exists('/proc/self/fd/' + n) and int(n) > 2) == [os.environ['BATON_FD']], sys.stdin.read() == '')"
    )
    async with Scene(tmp_path) as scene:
        spec = SessionSpec(name="s", run=(sys.executable, "-S", "-c", code), cwd=str(tmp_path), prepare=True)
        scene.start(spec)
        await scene.fact(Exited, 1)
        lines = scene.crew.log_path("s").read_text().splitlines()
    assert "baton.py" in lines[0]
    assert "daemon" not in lines[0]
    assert lines[1:] == ["False '' True", f"False {tmp_path} True", "True True"]


def test_a_gpu_is_shown_by_its_uuid_in_the_bus_s_order() -> None:
    device = DeviceAssignment(kind="gpu", index=1, uuid="GPU-1")
    assert nursery_module._device_environment(device) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "GPU-1",
    }
    assert nursery_module._device_environment(CPU) == {"CUDA_VISIBLE_DEVICES": ""}


@in_loop
async def test_an_inspector_that_is_killed_or_stopped_is_an_error_of_each_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nursery = Nursery(tmp_path / "n", say=print, use_fork_server=False)
    died = await nursery.inspect([NOWHERE, NOWHERE], lower=lambda process: process.signal_group(signal.SIGKILL))
    assert [answer["session"] for answer in died] == ["m", "m"]
    for answer in died:
        assert answer["error"]["key"] == "model"
        assert "the process that looked into it was killed by SIGKILL, as the kernel" in answer["error"]["reason"]
    monkeypatch.setattr(inspectors, "SPEC_TIMEOUT_S", 0.1)
    started: list[Process] = []

    def stop(process: Process) -> None:
        started.append(process)
        process.signal_group(signal.SIGSTOP)

    (hung,) = await nursery.inspect([NOWHERE], lower=stop)
    assert "gave no answer within 0 s" in hung["error"]["reason"]
    assert await started[0].exited == -signal.SIGKILL


@pytest.mark.tensorflow
@in_loop
async def test_with_real_tensorflow_forked_workers_start_at_once_and_do_their_work(tmp_path: Path) -> None:
    async with Scene(tmp_path, use_fork_server=True) as scene:
        await scene.nursery.warm()
        assert scene.said == []
        pid = scene.nursery.server_pid
        assert pid is not None
        assert psutil.Process(pid).num_threads() == 1
        server = scene.nursery._server
        assert server is not None
        maker = await fork(server, tmp_path, "save_model")
        maker.tell(str(tmp_path))
        assert await maker.process.exited == 0, maker.log.read_text()

        model, items, output = (str(tmp_path / name) for name in ("model", "x.npy", "out"))
        spec = SessionSpec(name="m", model=model, input=items, output=output, batch_size=50)
        (answer,) = await scene.nursery.inspect([spec], lower=scene.crew.lower)
        assert (answer["error"], answer["total"], answer["signature"]) == (None, 500, "serving_default")
        before = asyncio.get_running_loop().time()
        scene.start(spec, low=True)
        await scene.fact(Hello, 1)
        assert asyncio.get_running_loop().time() - before < 2.0, "an import of its own would take longer"
        ready = await scene.fact(Ready, 1)
        assert (ready.total, ready.tier.label) == (500, "warm")
        scene.crew.go(1)
        assert (await scene.fact(Exited, 1)).status == 0
        assert scene.names(1) == ["Hello", "Ready", "Promoted", "LastBatch", "Quiesced", "Committed", "Exited"]
        assert (await scene.fact(Committed, 1)).cursor == 500
        assert "y.npy" in os.listdir(output)  # noqa: PTH208 - a look at a temporary folder


@pytest.mark.tensorflow
@in_loop
async def test_with_real_tensorflow_an_interpreter_of_its_own_does_as_well(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        spec = SessionSpec(name="m", model="/no/model", input="/no/input.npy", output=str(tmp_path / "out"))
        scene.start(spec)
        (answer,) = await scene.nursery.inspect([NOWHERE], lower=lambda _: None)
        assert answer["error"]["key"] == "model"
        assert (await scene.fact(Exited, 1)).status == 1
        assert scene.names(1) == ["Hello", "Failed", "Exited"]


@pytest.mark.parametrize("closed", [False, True])
@in_loop
async def test_the_exit_record_of_a_program_stays_for_the_next_daemon(tmp_path: Path, closed: bool) -> None:
    """Who ends and leaves it running takes no note of its end any more; who stays has heard of it."""
    made = Nursery(tmp_path, say=print, use_fork_server=False)
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "log").open("ab") as log:
        spec = SessionSpec(name="s", run=("true",), cwd=str(tmp_path))
        process = await made.start(spec, CPU, 7, theirs, log.fileno())
        record = made.exit_records / "7.json"
        if closed:
            made.close()
        assign = {"type": "assign", "protocol": 1, "session": "s", "generation": 7, "tier": "warm", "cursor": 0}
        assign |= {"resume": False, "device": {"kind": "cpu"}, "rejoin": None, "spec": msgspec.to_builtins(spec)}
        ours.sendall(json.dumps(assign).encode() + b'\n{"type": "go"}\n')
        assert await process.exited == 0
        await asyncio.sleep(0)  # whoever else waited for its end has been called
        assert record.exists() == closed
    made.close()
