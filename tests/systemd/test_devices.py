"""Which device nodes a session can open: the GPU's, by the drop-in that is installed, and no others.

There is no GPU in the machine: its nodes are made as the driver makes them, and /proc/devices names them as the driver
would. NVIDIA's own majors have no driver here, so opening such a node gets as far as looking for one (ENXIO) where the
unit allows it, and not that far (EPERM) where it does not: the `devices` controller of control groups v1 sees to that,
or a BPF program in the unified hierarchy. /dev/nvidia-uvm, whose major is drawn anew at each boot, has a driver that is
there, and opens. What each of them gives without the sandbox is asked first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.systemd.machine import OUT, OWN, ROOT, Machine, on_both

pytestmark = on_both

MAJORS = {"nvidia": 195, "nvidiactl": 195, "nvidia-modeset": 195, "nvidia-caps": 236, "nvidia-uvm": 10}
GPUS = {
    "nvidia0": "c 195 0",
    "nvidia1": "c 195 1",
    "nvidiactl": "c 195 255",
    "nvidia-cap1": "c 236 1",
    "nvidia-uvm": "c 10 229",  # FUSE's: anybody may open it
}
OTHERS = {"ttyS0": "c 4 64", "cpu-id": "c 203 0", "loop7": "b 7 7", "nobodys": "c 240 0"}
TRY = """
import errno, os, sys
for name in sys.argv[1:]:
    try:
        os.close(os.open(f"/dev/{name}", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        print(name, errno.errorcode[error.errno])
    else:
        print(name, "opens")
"""

Tried = dict[str, str]


@pytest.fixture(scope="module")
def nodes(machine: Machine) -> Iterator[Machine]:
    """A machine where these nodes are, for everybody."""
    for name, numbers in (GPUS | OTHERS).items():
        machine.run("mknod", "-m", "666", f"/dev/{name}", *numbers.split())
    named = "".join(f"{major:3} {name}\n" for name, major in MAJORS.items())
    machine.write("/run/devices", machine.read("/proc/devices").replace(":\n", f":\n{named}", 1))
    machine.write("/opt/tests/try_open.py", TRY)
    machine.run("mount", "--bind", "/run/devices", "/proc/devices")
    yield machine
    machine.run("umount", "/proc/devices")


@pytest.fixture
def free(nodes: Machine) -> Tried:
    """What they give to the service's user where no sandbox is."""
    found = parsed(nodes.run_as("batond", OWN, "/opt/tests/try_open.py", *GPUS, *OTHERS))
    assert "EPERM" not in found.values(), "else nothing could be concluded from it"
    assert found["nvidia-uvm"] == "opens"
    return found


def parsed(text: str) -> Tried:
    return dict(line.split() for line in text.splitlines())


def tried(service: Machine, drop_in: str | None) -> Tried:
    """What they give to a session, with a drop-in behind the one that is installed."""
    service.drop_in("60-test", drop_in)
    service.systemctl("restart", "batond.service")
    opens = f"{OWN} /opt/tests/try_open.py {' '.join(GPUS | OTHERS)} >{OUT}/tried"
    service.submit(f'[[session]]\nname = "a"\nrun = {json.dumps(["sh", "-c", opens])}\n')
    service.event("session.finished", session="a")
    return parsed(service.read(f"{OUT}/tried"))


def test_a_session_can_open_the_gpus_nodes_and_no_others(free: Tried, service: Machine) -> None:
    assert tried(service, None) == {name: free[name] for name in GPUS} | dict.fromkeys(OTHERS, "EPERM")


def test_without_the_gpus_drop_in_it_can_open_none_of_them(free: Tried, service: Machine) -> None:
    assert tried(service, "[Service]\nDeviceAllow=\n") == dict.fromkeys(free, "EPERM")


def test_one_gpu_of_several_can_be_all_that_is_open(free: Tried, service: Machine) -> None:
    """By the drop-in that docs/systemd.md has for it."""
    (given,) = re.findall(
        r"```ini\n(\[Service\]\nDeviceAllow=\n.*?)```", (ROOT / "docs/systemd.md").read_text(), re.DOTALL
    )
    opened = ("nvidia1", "nvidiactl", "nvidia-uvm")
    assert tried(service, given) == dict.fromkeys(free, "EPERM") | {name: free[name] for name in opened}
