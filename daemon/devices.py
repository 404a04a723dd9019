"""NVML and host memory as readings, and the lanes they make. The only importer of pynvml; decides nothing.

All calls but `Devices()` and `labels` may take as long as the driver likes: they belong on a thread of their own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import psutil
import pynvml

from daemon import hostmemory
from states.estimate import IMPORTED_BYTES
from states.snapshot import Lane
from states.work import Tier

# A list of processes costs several times what a reading of memory does, and explains more than it decides. Where the
# memory is as it was when they were listed, they most likely are, too.
PROCESSES_INTERVAL_S: Final = 0.5
SAME_PROCESSES_INTERVAL_S: Final = 5.0

GPU_TIERS: Final = (Tier.IMPORTED, Tier.STAGED, Tier.WARM)

# Answers after which no later call for this GPU can succeed before somebody acts.
LOST: Final = {
    pynvml.NVML_ERROR_GPU_IS_LOST: "fell off the bus; restart the host, or reset the GPU (nvidia-smi --gpu-reset)",
    pynvml.NVML_ERROR_RESET_REQUIRED: "must be reset first (nvidia-smi --gpu-reset)",
    pynvml.NVML_ERROR_GPU_NOT_FOUND: "is not there any more; see `nvidia-smi -L`",
    pynvml.NVML_ERROR_NOT_FOUND: "is not there any more; see `nvidia-smi -L`",
}
# Answers that say nothing of the GPU itself: what runs on it may go on.
UNREADABLE: Final = {
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "NVIDIA's driver is not loaded any more; load it again (modprobe nvidia)",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the driver was upgraded under batond; restart the host if its kernel module is still the old one, else "
        "restart batond (`batonctl shutdown --leave-running` lets sessions go on)"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not open the NVIDIA devices any more; see `ls -l /dev/nvidia*`",
    pynvml.NVML_ERROR_TIMEOUT: "the driver did not answer in its own time; see `dmesg`",
    pynvml.NVML_ERROR_UNKNOWN: (
        "NVML says Unknown Error; see `dmesg`; in a container it may have lost /dev/nvidia*: start it again"
    ),
}
WHY_NO_GPU: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "there is no libnvidia-ml.so.1; install NVIDIA's driver",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "NVIDIA's driver is not loaded; see `nvidia-smi`",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not open the NVIDIA devices; see `ls -l /dev/nvidia*`",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "NVIDIA's library and its loaded driver differ in version; restart the host"
    ),
}
# Why the clocks are as they are, by the bits of nvmlClocksEventReasons.
CLOCK_REASONS: Final = {
    0x001: "idle",
    0x002: "clocks set by an application",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
# TensorFlow 2.21's wheel has kernels for 6.x to 8.9, and PTX for 9.0, which later ones up to here compile at first use.
CAPABILITY_LEAST: Final = (6, 0)
CAPABILITY_BEYOND: Final = (12, 0)

LISTS: Final = ("Compute", "Graphics", "MPSCompute")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that holds memory of a device. `size`: bytes, None where NVML does not tell.

    `kin`: its session leader, itself and its ancestors, as pids; empty, with "?" for a name, where it is not to be seen
    from here: it has ended, or the pid is the host's and this is a container.
    """

    pid: int
    name: str
    size: int | None
    kin: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """A device's memory, in bytes. `own`: it is not the host's. `processes`: None where NVML does not tell of them."""

    total: int
    free: int
    own: bool = False
    processes: tuple[Process, ...] | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """The device cannot be used any more: why, and what to do."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """There is no reading now: why, and what to do. Of the device itself this says nothing."""

    reason: str


@dataclass(frozen=True)
class Listing:
    """A device as a person is told of it. Bytes; None where it could not be read.

    `trouble`: why it cannot be read, or what is to be known before it is used. `clocks`: why they are as they are.
    """

    lane: str
    kind: str
    name: str
    index: int | None = None
    uuid: str | None = None
    driver: str | None = None
    capability: str | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None
    utilisation_percent: int | None = None
    temperature_c: int | None = None
    clocks: tuple[str, ...] | None = None
    processes: tuple[Process, ...] | None = None
    trouble: str | None = None


class Device:
    """What is under one lane. On the host's memory `handle` is None."""

    def __init__(
        self,
        lane: Lane,
        name: str,
        handle: pynvml.c_nvmlDevice_t | None = None,
        absent: str | None = None,
    ) -> None:
        """absent: why a GPU that was here before cannot be opened; it is looked for again by `take`."""
        self.lane = lane
        self.name = name
        self._handle = handle
        self._absent = absent
        self._closed: int | None = None  # what NVML said when the handle was to be taken anew
        self._capability: tuple[int, int] | None = None
        if handle is not None:
            self._capability = _ask("nvmlDeviceGetCudaComputeCapability", handle)
        self._processes: tuple[Process, ...] | None = None
        self._listed_at = float("-inf")
        self._listed_free = 0  # bytes, when they were

    def read(self) -> Read | Lost | Unreadable:
        """Its memory now; of its processes what was so half a second ago at most, less those that ended since.

        Where its free memory is the same, 5 s ago at most.
        """
        if self._absent is not None:
            return Unreadable(f"{self.name} was here before, and cannot be opened: {self._absent}")
        try:
            gpu = None if self._handle is None else self._memory()
        except pynvml.NVMLError as error:
            if error.value in LOST:
                return Lost(f"{self.name} {LOST[error.value]}")
            return Unreadable(f"{self.name} cannot be read: {_unreadable(error)}")
        if gpu is None:
            host = hostmemory.read()
            return Read(host.total, host.free)
        return Read(int(gpu.total), int(gpu.free), own=True, processes=self._holders(int(gpu.free)))

    def take(self) -> None:
        """Take its handle anew, by its UUID: the old one ended with NVML."""
        if self.lane.uuid is not None:
            self._closed = None
            try:
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(self.lane.uuid)
                self._absent = None
            except pynvml.NVMLError as error:
                self._closed = error.value

    def shut(self, error: int) -> None:
        """NVML cannot be used at all: that is what its readings say from here on."""
        self._closed = error

    def label(self, driver: str | None, trouble: str | None = None) -> Listing:
        """What is known of it without asking."""
        lane, capability = self.lane, self._capability
        about = Listing(lane.name, lane.device, self.name, lane.index, lane.uuid, driver, trouble=trouble)
        if capability is None:
            return about
        return replace(
            about, capability=f"{capability[0]}.{capability[1]}", trouble=trouble or _capability_trouble(capability)
        )

    def listing(self, driver: str | None) -> Listing:
        """What is to be told of it now."""
        read = self.read()
        if not isinstance(read, Read):
            return self.label(driver, read.reason)
        about = replace(
            self.label(driver),
            total_bytes=read.total,
            free_bytes=read.free,
            used_bytes=max(0, read.total - read.free),
            processes=read.processes,
        )
        if self._handle is None:
            return about
        utilisation = _ask("nvmlDeviceGetUtilizationRates", self._handle)
        return replace(
            about,
            utilisation_percent=None if utilisation is None else int(utilisation.gpu),
            temperature_c=_temperature(self._handle),
            clocks=_clocks(self._handle),
        )

    def _memory(self) -> Any:
        """What NVML says of its memory; None where it has none of its own (GB10, Tegra)."""
        if self._closed is not None:
            raise pynvml.NVMLError(self._closed)
        try:
            return pynvml.nvmlDeviceGetMemoryInfo(self._handle)  # version 1: `free` is what may be had
        except pynvml.NVMLError_NotSupported:
            return None

    def _holders(self, free: int) -> tuple[Process, ...] | None:
        now = time.monotonic()
        interval_s = PROCESSES_INTERVAL_S if free != self._listed_free else SAME_PROCESSES_INTERVAL_S
        if now - self._listed_at >= interval_s:
            self._listed_at, self._listed_free = now, free
            self._processes = _processes(self._handle)
        elif self._processes:
            self._processes = tuple(each for each in self._processes if not each.kin or psutil.pid_exists(each.pid))
        return self._processes


class Devices:
    """The devices of this host, as found once. A GPU that is new is seen after a restart."""

    def __init__(self, known: Iterable[Lane] = (), needed: Collection[str] = ()) -> None:
        """Look for GPUs by NVML; the CPU is a lane where there is none, and was none.

        known: the GPUs that an earlier daemon had. One that cannot be opened is a lane without readings, until it can
        be; one that is not there any more is none, but for a lane that is `needed`.
        """
        self.why_no_gpu: str | None = None
        self.unopened: str | None = None  # why some GPU is no lane, though others are
        self._driver: str | None = None
        self._initialised = False
        self._troubles: dict[int, str] = {}  # by index, why it cannot be opened
        found = {device.lane.name: device for device in self._gpus()}
        found |= {device.lane.name: device for device in self._absent(known, needed, found)}
        self._devices = found or {"cpu": _host()}

    def discover(self) -> tuple[Lane, ...]:
        """One lane for each device, as new."""
        return tuple(device.lane for device in self._devices.values())

    def device(self, lane: str) -> Device:
        """The device under a lane."""
        return self._devices[lane]

    def listing(self) -> tuple[Listing, ...]:
        """What a person is told of each."""
        return tuple(device.listing(self._driver) for device in self._devices.values())

    def labels(self, trouble: str) -> tuple[Listing, ...]:
        """What is known of each without asking, where that is all there is: why it is."""
        return tuple(device.label(self._driver, trouble) for device in self._devices.values())

    def reopen(self) -> None:
        """End NVML, and begin anew: what was reset, or whose driver came back, is seen only so. Its readings tell."""
        self.close()
        try:
            pynvml.nvmlInit()
            self._initialised = True
            self._driver = pynvml.nvmlSystemGetDriverVersion()
        except pynvml.NVMLError as error:
            for device in self._devices.values():
                device.shut(error.value)
            return
        for device in self._devices.values():
            device.take()

    def close(self) -> None:
        """Let NVML go. May be called twice."""
        if self._initialised:
            self._initialised = False
            _ask("nvmlShutdown")  # that it failed is of no use to anybody: it is gone either way

    def _gpus(self) -> tuple[Device, ...]:
        try:
            pynvml.nvmlInit()
            self._initialised = True
            self._driver = pynvml.nvmlSystemGetDriverVersion()
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self.why_no_gpu = f"no GPU: {WHY_NO_GPU.get(error.value, f'NVML says {error}')}"
            return ()
        found: list[Device] = []
        for index in range(count):
            try:
                here = tuple(_opened(index))
            except pynvml.NVMLError as error:
                self._troubles[index] = LOST.get(error.value, f"cannot be opened: {error}")
                continue
            if not here:
                self._troubles[index] = "is in MIG mode and has no instance; make one (nvidia-smi mig -cgi … -C)"
            found += here
        troubles = "; ".join(f"GPU {index} {why}" for index, why in self._troubles.items())
        if not found:
            self.why_no_gpu = f"no GPU: {troubles or 'the driver knows of none'}"
        else:
            self.unopened = troubles or None
        return tuple(found)

    def _absent(self, known: Iterable[Lane], needed: Collection[str], found: Mapping[str, Device]) -> Iterator[Device]:
        here = {device.lane.uuid for device in found.values()}
        for lane in known:
            if lane.uuid in here or lane.name in found:
                continue
            why = self.why_no_gpu if not self._initialised else self._troubles.get(lane.index or 0)
            if why is None and lane.name in needed:
                why = "the driver does not know it any more"
            if why is not None:
                fresh = Lane(
                    name=lane.name,
                    device="gpu",
                    index=lane.index,
                    uuid=lane.uuid,
                    model=lane.model,
                    tiers=GPU_TIERS,
                    shares_memory=lane.shares_memory,
                    imported_bytes=IMPORTED_BYTES if lane.shares_memory else 0,
                )
                yield Device(fresh, lane.model, absent=why.removeprefix("no GPU: "))


def _opened(index: int) -> Iterator[Device]:
    """The GPU, or each of its MIG instances where it is in that mode: CUDA sees no other devices then."""
    gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
    mode = _ask("nvmlDeviceGetMigMode", gpu)
    if mode is None or mode[0] != 1:
        yield _gpu(f"gpu{index}", index, gpu)
        return
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        instance = _ask("nvmlDeviceGetMigDeviceHandleByIndex", gpu, number)
        if instance is not None:
            yield _gpu(f"gpu{index}-mig{number}", index, instance, parent=gpu)


def _gpu(lane: str, index: int, handle: pynvml.c_nvmlDevice_t, parent: pynvml.c_nvmlDevice_t | None = None) -> Device:
    name = _ask("nvmlDeviceGetName", handle) or pynvml.nvmlDeviceGetName(parent or handle)
    uuid = pynvml.nvmlDeviceGetUUID(handle)
    shares = _shares_memory(handle)
    return Device(
        Lane(
            name=lane,
            device="gpu",
            index=index,
            uuid=uuid,
            model=name,
            tiers=GPU_TIERS,
            shares_memory=shares,
            imported_bytes=IMPORTED_BYTES if shares else 0,
        ),
        name,
        handle,
    )


def _shares_memory(handle: pynvml.c_nvmlDevice_t) -> bool:
    """Whether the GPU has no memory of its own (GB10, Tegra)."""
    try:
        pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:
        return True
    except pynvml.NVMLError:  # its readings will say
        return False
    return False


def _host() -> Device:
    return Device(Lane(name="cpu", imported_bytes=IMPORTED_BYTES), "the host's processors and memory")


# What NVML may say or not


def _ask(function: str, *arguments: Any) -> Any:
    """What NVML answers; None where it does not: the device, the driver or this version of pynvml may not have it."""
    known = getattr(pynvml, function, None)
    try:
        return None if known is None else known(*arguments)
    except pynvml.NVMLError:
        return None


def _unreadable(error: pynvml.NVMLError) -> str:
    return UNREADABLE.get(error.value, f"NVML says {error}; see `nvidia-smi` and `dmesg`")


def _capability_trouble(capability: tuple[int, int]) -> str | None:
    if CAPABILITY_LEAST <= capability < CAPABILITY_BEYOND:
        return None
    return (
        f"compute capability {capability[0]}.{capability[1]}: TensorFlow 2.21's own packages have no kernels for it "
        "(6.0 to 9.0, and what runs their PTX); use a build of TensorFlow that has"
    )


def _temperature(handle: pynvml.c_nvmlDevice_t) -> int | None:
    """Degrees Celsius. An older driver has the older of the two functions only."""
    found = _ask("nvmlDeviceGetTemperatureV", handle, pynvml.NVML_TEMPERATURE_GPU)
    if found is None:
        found = _ask("nvmlDeviceGetTemperature", handle, pynvml.NVML_TEMPERATURE_GPU)
    return None if found is None else int(found)


def _clocks(handle: pynvml.c_nvmlDevice_t) -> tuple[str, ...] | None:
    """In words, what the clocks are held by. A driver before R535 knows the older of the two functions only."""
    mask = _ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
    if mask is None:
        mask = _ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    if mask is None:
        return None
    bits = [1 << place for place in range(64) if mask >> place & 1]
    return tuple(CLOCK_REASONS.get(bit, f"reason {bit:#x}") for bit in bits)


# Who holds memory


def _processes(handle: pynvml.c_nvmlDevice_t) -> tuple[Process, ...] | None:
    """Of every kind, each once; None where NVML gives no list. One that computes and draws is in two of them."""
    sizes: dict[int, int | None] = {}
    told = False
    for kind in LISTS:
        entries = _ask(f"nvmlDeviceGet{kind}RunningProcesses_v3", handle)
        if entries is None:  # a driver before R510 has the older function only
            entries = _ask(f"nvmlDeviceGet{kind}RunningProcesses_v2", handle)
        told = told or entries is not None
        for entry in entries or ():
            pid, size = int(entry.pid), None if entry.usedGpuMemory is None else int(entry.usedGpuMemory)
            known = sizes.get(pid)
            sizes[pid] = size if known is None else max(known, size or 0)
    return tuple(_process(pid, size) for pid, size in sizes.items()) if told else None


def _process(pid: int, size: int | None) -> Process:
    try:
        process = psutil.Process(pid)
        kin = (os.getsid(pid), pid, *(each.pid for each in process.parents()))
        return Process(pid, process.name(), size, kin)
    except (psutil.Error, OSError):
        return Process(pid, "?", size)
