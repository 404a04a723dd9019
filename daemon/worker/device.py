"""Binds the process to the device it was assigned. Nothing else sets device environment or memory limits."""

from __future__ import annotations

import os

import baton
from daemon.sessionfile import DeviceAssignment


def claim(device: DeviceAssignment) -> None:
    """Leave only `device` visible. To be called before TensorFlow first looks for devices: later is no use."""
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if device.kind == "cpu" else device.uuid or str(device.index)


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
