"""The device a worker was assigned: bound, limited, named, measured. Nothing else sets device environment or limits."""

from __future__ import annotations

import os
from typing import Final

import baton
from daemon.sessionfile import DeviceAssignment

HOST: Final = "/CPU:0"  # TensorFlow's name of the host's own memory


def claim(device: DeviceAssignment) -> None:
    """Leave only `device` visible. To be called before TensorFlow first looks for devices: later is no use."""
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if device.kind == "cpu" else device.uuid or str(device.index)
    if device.kind == "gpu":
        # Below its limit the pool grows with what is asked of it; else it takes the whole limit at once. Exactly this
        # word: others are ignored. `set_memory_growth` is no way: TensorFlow refuses it beside an explicit limit.
        os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"


def target(device: DeviceAssignment) -> str:
    """TensorFlow's name of the device where the session's weights lie, and its computation runs."""
    return HOST if device.kind == "cpu" else "/GPU:0"


def limit(device: DeviceAssignment) -> None:
    """Give TensorFlow its explicit memory limit, before the first operation.

    Without one, its pool is fixed for life from what was free when it looked, beside a full card a sliver.
    Raises baton.Failure (internal) where TensorFlow does not see the device: it would compute on the CPU, silently.
    """
    if device.kind == "cpu":
        return
    import tensorflow as tf

    visible = tf.config.list_physical_devices("GPU")
    if len(visible) != 1:
        raise baton.Failure(
            "internal",
            f"cannot use GPU {device.uuid}: TensorFlow sees {len(visible)} GPUs where it should see that one; "
            "check the driver, and that batond's environment has tensorflow[and-cuda]",
        )
    if device.memory_limit_bytes is not None:
        configuration = tf.config.LogicalDeviceConfiguration(memory_limit=device.memory_limit_bytes / 2**20)
        tf.config.set_logical_device_configuration(visible[0], [configuration])


def start(name: str) -> None:
    """Make the device's context, the first memory that is taken there; no tensor of ours lies on it yet.

    Raises baton.Failure: memory where there is no room for a context, internal where it cannot be made otherwise.
    """
    import tensorflow as tf

    from daemon.worker.failures import first_line, is_out_of_memory

    try:
        known = {logical.name.removeprefix("/device:") for logical in tf.config.list_logical_devices()}
    except Exception as error:  # the driver, CUDA or TensorFlow: each raises what it likes
        kind, remedy = ("memory", "free memory on it") if is_out_of_memory(error) else ("internal", "check the driver")
        raise baton.Failure(kind, f"cannot start device {name}: {first_line(error)}; {remedy}") from error
    if name.removeprefix("/") not in known:
        have = ", ".join(sorted(known))
        raise baton.Failure("internal", f"cannot start device {name}: TensorFlow has {have}; check the driver")


def peak_bytes(name: str) -> int:
    """The most that tensors held on the device so far, as TensorFlow counts; 0 for the host, where it counts nothing.

    Context and libraries are not in it: what the process holds of the device is for the driver to say.
    """
    if "GPU" not in name:
        return 0
    import tensorflow as tf

    return int(tf.config.experimental.get_memory_info(name.removeprefix("/"))["peak"])
