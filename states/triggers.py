"""What a lane's machine is asked about: facts and commands, told by the part the worker plays on the lane."""

from __future__ import annotations

from enum import Enum


class Trigger(Enum):
    """The events of the table. The values are the spelling in logs."""

    QUEUED = "Queued"
    MEMORY = "Memory"
    TICK = "Tick"
    RESUME = "Resume"
    SWAP = "Swap"
    DRAIN_LANE = "DrainLane"
    CANCEL_ACTIVE = "CancelActive"
    CANCEL_STANDBY = "CancelStandby"
    STOP = "Stop"
    KILL = "Kill"
    READY = "Ready"
    STANDBY_FAILED = "StandbyFailed"
    PROMOTED = "Promoted"
    PROGRESS = "Progress"
    STALLED = "Stalled"
    ACTIVE_GROWS = "ActiveGrows"
    LAST_BATCH = "LastBatch"
    QUIESCED = "Quiesced"
    ACTIVE_LOST = "ActiveLost"
    RETIRING_GONE = "RetiringGone"
    RETIRING_LOST = "RetiringLost"
    DEVICE_LOST = "DeviceLost"
    DEVICE_BACK = "DeviceBack"
