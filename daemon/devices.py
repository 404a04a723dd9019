"""NVML and host memory as readings, and the lanes they make. The only importer of pynvml; decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import pynvml

from daemon import hostmemory
from states.events import DeviceLost, Memory
from states.snapshot import MIB, Lane
from states.work import Tier

# What TensorFlow 2.21, imported and not used, takes from the host: 234 MiB of anonymous memory were measured. The
# 373 MiB of library files mapped beside it are page cache, which all workers share and the kernel may give up.
IMPORTED_BYTES: Final = 256 * MIB

# Answers after which no later call for this GPU can succeed before somebody acts.
LOST: Final = {
    pynvml.NVML_ERROR_GPU_IS_LOST: "fell off the bus; restart the host, or reset the GPU",
    pynvml.NVML_ERROR_RESET_REQUIRED: "must be reset first (nvidia-smi --gpu-reset)",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "has no driver any more; load it again",
    pynvml.NVML_ERROR_GPU_NOT_FOUND: "is not there any more",
}
WHY_NO_GPU: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "there is no libnvidia-ml.so.1; install NVIDIA's driver",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "NVIDIA's driver is not loaded; see `nvidia-smi`",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not open the NVIDIA devices; see `ls -l /dev/nvidia*`",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "NVIDIA's library and its loaded driver differ in version; restart the host"
    ),
}


@dataclass(frozen=True)
class Listing:
    """A device as a person is told of it. Bytes; None where it could not be read."""

    lane: str
    kind: str
    name: str
    index: int | None = None
    uuid: str | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None
    driver: str | None = None
    trouble: str | None = None


class Device:
    """What is under one lane."""

    def __init__(
        self, lane: Lane, name: str, driver: str | None = None, handle: pynvml.c_nvmlDevice_t | None = None
    ) -> None:
        """handle: NVML's, None for the host."""
        self.lane = lane
        self.name = name
        self.driver = driver
        self._handle = handle
        self._total = 0  # as last read

    def read(self, at: float) -> Memory | DeviceLost:
        """A reading, stamped `at` (monotonic seconds).

        A GPU that does not answer this time, and is not known to be lost, reads as full: nothing is
        given out on it, and the next reading may tell better.
        """
        try:
            return self._read(at)
        except pynvml.NVMLError as error:
            if error.value in LOST:
                return DeviceLost(at, self.lane.name, f"{self.name} {LOST[error.value]}")
            return Memory(at, self.lane.name, self._total, 0)

    def _read(self, at: float) -> Memory:
        if self._handle is not None:
            try:
                gpu = pynvml.nvmlDeviceGetMemoryInfo(self._handle)  # version 1: `free` is what may be had
            except pynvml.NVMLError_NotSupported:  # it shares the host's memory (GB10, Tegra)
                pass
            else:
                self._total = int(gpu.total)
                return Memory(at, self.lane.name, self._total, int(gpu.free))
        host = hostmemory.read()
        return Memory(at, self.lane.name, host.total, host.free)

    def listing(self) -> Listing:
        """What is to be told of it now."""
        read = self.read(0.0)
        about = Listing(
            self.lane.name, self.lane.device, self.name, self.lane.index, self.lane.uuid, driver=self.driver
        )
        if isinstance(read, DeviceLost):
            return replace(about, trouble=read.reason)
        return replace(about, total_bytes=read.total, free_bytes=read.free, used_bytes=max(0, read.total - read.free))


class Devices:
    """The devices of this host, as found once. A GPU that comes later is seen after a restart."""

    def __init__(self) -> None:
        """Look for GPUs by NVML; the CPU is a lane where there is none."""
        self.why_no_gpu: str | None = None
        self._initialised = False
        found = self._gpus()
        self._devices = {device.lane.name: device for device in found or (_host(),)}

    def discover(self) -> tuple[Lane, ...]:
        """One lane for each device, as new."""
        return tuple(device.lane for device in self._devices.values())

    def device(self, lane: str) -> Device:
        """The device under a lane."""
        return self._devices[lane]

    def read(self, at: float) -> tuple[Memory | DeviceLost, ...]:
        """A reading of each."""
        return tuple(device.read(at) for device in self._devices.values())

    def listing(self) -> tuple[Listing, ...]:
        """What a person is told of each."""
        return tuple(device.listing() for device in self._devices.values())

    def close(self) -> None:
        """Let NVML go. May be called twice."""
        if self._initialised:
            self._initialised = False
            pynvml.nvmlShutdown()

    def _gpus(self) -> tuple[Device, ...]:
        try:
            pynvml.nvmlInit()
            self._initialised = True
            driver = pynvml.nvmlSystemGetDriverVersion()
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self.why_no_gpu = f"no GPU: {WHY_NO_GPU.get(error.value, f'NVML says {error}')}"
            return ()
        troubles: list[str] = []
        found: list[Device] = []
        for index in range(count):
            try:
                found.append(_gpu(index, driver))
            except pynvml.NVMLError as error:
                troubles.append(f"GPU {index} {LOST.get(error.value, f'cannot be opened: {error}')}")
        if not found:
            self.why_no_gpu = f"no GPU: {'; '.join(troubles) or 'the driver knows of none'}"
        return tuple(found)


def _gpu(index: int, driver: str) -> Device:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    lane = Lane(
        name=f"gpu{index}",
        device="gpu",
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        tiers=(Tier.IMPORTED, Tier.STAGED, Tier.WARM),
    )
    return Device(lane, pynvml.nvmlDeviceGetName(handle), driver, handle)


def _host() -> Device:
    return Device(Lane(name="cpu", imported_bytes=IMPORTED_BYTES), "the host's processors and memory")
