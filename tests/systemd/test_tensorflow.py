"""TensorFlow sessions in the service, in its sandbox: submitted by a member of the group, and through a crash."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.systemd.machine import OUT, OWN, ROOT, SETTINGS, Machine

pytestmark = pytest.mark.tensorflow

MODELS = "/srv/models"
ITEMS = 12_000
MAKE = f"""
import sys, numpy, tensorflow as tf

class Affine(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")], jit_compile=True)
    def __call__(self, x):
        return {{"y": 2.0 * x + 1.0}}

folder = sys.argv[1]
tf.saved_model.save(model := Affine(), folder + "/affine", signatures={{"serving_default": model.__call__}})
numpy.save(folder + "/x.npy", numpy.arange(4 * {ITEMS}, dtype=numpy.float32).reshape({ITEMS}, 4))
"""
CHECK = f"""
import numpy, sys
x, y = numpy.load("{MODELS}/x.npy"), numpy.load(sys.argv[1] + "/y.npy")
print(len(y), (y == 2 * x + 1).all())
"""


@pytest.fixture(scope="module")
def model(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A SavedModel that XLA compiles as it goes (that writes memory and executes it), its input, and a user."""
    folder = tmp_path_factory.mktemp("models")
    made = subprocess.run([sys.executable, "-c", MAKE, str(folder)], cwd=ROOT, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr.decode()[-2000:]
    machine.put(folder, MODELS)
    machine.run("useradd", "--no-create-home", "--groups", "batond", "ann")
    return machine


@pytest.fixture
def forking(model: Machine, service: Machine) -> Machine:
    """The service with a fork server that has TensorFlow."""
    service.write("/etc/batond/batond.toml", SETTINGS.replace('"exec"', '"forkserver"'))
    service.systemctl("restart", "batond.service")
    return service


def submit(machine: Machine, name: str, batch_size: int) -> None:
    """As a user who is in the service's group besides its own."""
    assert machine.run_as("ann", "id", "-gn") == "ann\n"
    paths = {"model": f"{MODELS}/affine", "input": f"{MODELS}/x.npy", "output": f"{OUT}/{name}"}
    table = {"name": name, "batch_size": batch_size} | paths
    machine.write("/srv/sessions.toml", "[[session]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in table.items()))
    machine.run_as("ann", "batonctl", "submit", "/srv/sessions.toml")


def completes(machine: Machine, name: str) -> None:
    """It ends well, and every row is there and right."""
    ended = machine.until(
        lambda: machine.told("session.finished", session=name) or machine.told("session.failed", session=name), "an end"
    )
    assert [event["event"] for event in ended] == ["session.finished"], ended
    assert ended[0]["items"] == ITEMS
    assert machine.run(OWN, "-c", CHECK, f"{OUT}/{name}") == f"{ITEMS} True\n"


def test_a_members_session_completes_with_every_row(forking: Machine) -> None:
    submit(forking, "a", batch_size=64)
    completes(forking, "a")
    assert forking.told("launcher.fell_back") == []


def test_a_killed_daemons_session_is_adopted_and_completes_with_every_row(forking: Machine) -> None:
    """Killed when it has rows and is far from its end; systemd starts the next one, and the session goes on between."""
    submit(forking, "a", batch_size=1)
    forking.event("session.started", session="a")
    forking.until(lambda: forking.ctl("show", "a")["session"]["done"] > 0, "progress")
    old = forking.main_pid()
    forking.run("kill", f"-{signal.SIGKILL.value}", str(old))
    forking.event("session.adopted", session="a")
    assert forking.main_pid() not in (0, old)
    assert forking.show("NRestarts") == "1"
    completes(forking, "a")
    assert len(forking.told("session.started", session="a")) == 1
    assert forking.told("session.retried") == []
