"""What a watcher may be shown, made up: lanes, workers, queues, events. Asserts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from daemon.ctl.watch_view import Scene
from daemon.results import LaneView, MemoryView, NeedView, QueueView, StatusResult, WorkerView

GIB = 1 << 30
NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def worker(session: str, phase: str = "computing", **more: Any) -> WorkerView:
    plain = WorkerView(
        session=session,
        generation=1,
        phase=phase,
        tier="warm",
        aim="warm",
        since_s=12.0,
        done=0,
        total=158_823,
        cursor=0,
        rate_items_s=None,
        remaining_s=None,
        remaining_spread_s=None,
        rss_bytes=GIB,
        reserved_bytes=0,
        held_bytes=0,
        attempt=1,
        errors=0,
        paused=None,
    )
    return msgspec.structs.replace(plain, **more)


def computing(session: str, share: float = 0.64, **more: Any) -> WorkerView:
    figures: dict[str, Any] = {
        "done": int(158_823 * share),
        "rate_items_s": 2310.0,
        "remaining_s": 70.0,
        "remaining_spread_s": 3.6,
        "held_bytes": 5 * GIB,
        "reserved_bytes": 6 * GIB,
    }
    return worker(session, **(figures | more))


def memory(total: int = 16, free: float = 5.5, spare: float | None = None, need: NeedView | None = None) -> MemoryView:
    return MemoryView(
        total_bytes=total * GIB,
        free_bytes=int(free * GIB),
        spare_bytes=int((free - 1 if spare is None else spare) * GIB),
        headroom_bytes=GIB // 4,
        next=need,
    )


def lane(name: str = "gpu0", state: str = "Idle", reason: str = "nothing is queued", **more: Any) -> LaneView:
    if more.get("active") is not None:
        more = {"memory": memory(free=10.6)} | more
    plain = LaneView(
        name=name,
        device="gpu:0",
        state=state,
        since_s=12.0,
        held=False,
        lost=None,
        reason=reason,
        active=None,
        standby=None,
        retiring=(),
        leaving=(),
        memory=memory(free=15.6),
    )
    return msgspec.structs.replace(plain, **more)


def queue(count: int) -> tuple[QueueView, ...]:
    names = ("digits-mlp", "imagenet-resnet50", "finetune-bert", "embed-corpus-part")
    return tuple(
        QueueView(
            name=f"{names[place % 4]}-{place}",
            place=place,
            priority=5 if place == 1 else 0,
            device="gpu",
            cursor=40_000 if place == 2 else 0,
            total=1_281_167 if place % 4 == 1 else None,
            attempt=0,
            reason="next on gpu0, after digits-resnet"
            if place == 1
            else f"behind {names[(place - 1) % 4]}-{place - 1}",
        )
        for place in range(1, count + 1)
    )


def status(*lanes: LaneView, queued: int = 0, **more: Any) -> StatusResult:
    plain = StatusResult(
        version="0.1.0",
        pid=4711,
        uptime_s=7500.0,
        stopping=False,
        unrecorded=None,
        seq=4711,
        lanes=lanes,
        queued=queued,
        queue=queue(queued)[:60],
    )
    return msgspec.structs.replace(plain, **more)


def event(name: str, ago_s: float, session: str | None = None, level: str = "info", **fields: Any) -> dict[str, Any]:
    ts = (NOON - timedelta(seconds=ago_s)).isoformat()
    return {"ts": ts, "level": level, "event": name, "lane": "gpu0", "session": session, "seq": 1, **fields}


EVENTS: tuple[Mapping[str, Any], ...] = (
    event("session.queued", 900, "digits-resnet", lane=None, reason=""),
    event("session.retried", 610, "tokenise", "warning", reason="was killed by SIGSEGV", wait_s=2.0),
    event("session.finished", 240, "tokenise", items=158_823, seconds=370.2),
    event("session.started", 240, "digits-cnn"),
    event(
        "handover.completed", 240, "digits-cnn", from_session="tokenise", gap_s=0.0016, device_waited_s=0.0, tier="warm"
    ),
    event("lane.moved", 80, None, **{"from": "Running", "to": "NearingEnd"}),
    event("standby.started", 12, "digits-resnet", tier="staged", held_back="warm needs 5.2 GiB"),
    event("standby.ready", 4, "digits-resnet", tier="staged", seconds=8.2),
)


def everything() -> StatusResult:
    """A GPU with all that a lane may have at once, and a long queue."""
    return status(
        lane(
            state="Preloading",
            reason="digits-resnet is prepared (staged); waits for memory for digits-resnet: warm needs 5.2 GiB and"
            " 0.2 GiB are kept free, 4.5 GiB can be given out; digits-cnn (running) has 6.0 GiB; tokenise (commits) has"
            " 1.2 GiB and is ended by force in 8 s; pid 812 (python3), which is not batond's, holds 2.0 GiB",
            active=computing("digits-cnn"),
            standby=worker(
                "digits-resnet",
                "ready",
                tier="staged",
                aim="staged",
                total=40_000,
                since_s=4.1,
                held_bytes=GIB // 2,
                reserved_bytes=GIB // 2,
            ),
            retiring=(worker("tokenise", "committing", done=158_823, since_s=0.4, held_bytes=GIB, reserved_bytes=GIB),),
            memory=memory(
                free=5.5,
                spare=4.5,
                need=NeedView(session="digits-resnet", tier="warm", needed_bytes=int(5.2 * GIB), fits=False),
            ),
        ),
        queued=134,
    )


def idle() -> StatusResult:
    return status(lane())


def waiting() -> StatusResult:
    """A GPU that a process of someone else's fills."""
    need = NeedView(session="digits-mlp-1", tier="warm", needed_bytes=int(5.4 * GIB), fits=False)
    return status(
        lane(
            reason="waits for memory for digits-mlp-1: imported needs 0.5 GiB of the host's memory and 0.2 GiB are kept"
            " free, 0.1 GiB can be given out; pid 812 (python3), which is not batond's, holds 14.1 GiB; 42 s so far",
            memory=memory(free=1.6, spare=1.6, need=need),
        ),
        queued=3,
    )


def three() -> StatusResult:
    """Three lanes: too many to be shown in full on a small terminal, too few to be pressed into lines."""
    need = NeedView(session="digits-mlp-1", tier="warm", needed_bytes=int(5.4 * GIB), fits=True)
    return status(
        lane(
            "gpu0", "Running", "70 s remain; the next is prepared 30 s before the end", active=computing("digits-cnn")
        ),
        lane(
            "gpu1",
            "Preloading",
            "digits-resnet is being prepared (warm)",
            active=computing("imagenet-resnet50", 0.98, remaining_s=8.1),
            standby=worker("digits-resnet", "loading", tier=None, since_s=3.2),
        ),
        lane("gpu2", "Idle", "digits-mlp-1 is next", memory=memory(free=15.6, need=need)),
        queued=134,
    )


def stopped() -> StatusResult:
    why = "the driver says that it is lost (Xid 79: the GPU has fallen off the bus)"
    return status(
        lane(state="Stopped", lost=why, reason=f"the device is lost: {why}", memory=None),
        queued=1,
        stopping=True,
        unrecorded="no space left on device",
    )


def ten() -> StatusResult:
    """Ten lanes, each in another state."""
    resnet = worker("digits-resnet", "ready", aim="warm")
    loading = worker("finetune-bert-large-uncased", "loading", tier=None, aim="warm")
    lanes = [
        lane("gpu0", "Running", "70 s remain", active=computing("digits-cnn")),
        lane("gpu1", "NearingEnd", "", active=computing("imagenet-resnet50", 0.97, remaining_s=8.1)),
        lane("gpu2", "Preloading", "", active=computing("embed-corpus", 0.9), standby=resnet),
        lane("gpu3", "Preloading", "", active=computing("embed-corpus-2", 0.5), standby=loading),
        lane("gpu4", "Draining", "", active=computing("long", 1.0, phase="draining", remaining_s=0.4), standby=resnet),
        lane("gpu5", "Swapping", "", standby=worker("next-one", "going")),
        lane("gpu6", "Idle", "waits for memory for digits-mlp-1: imported needs 0.5 GiB, 0.1 GiB can be given out"),
        lane("gpu7", "Idle", "paused; batonctl resume lets it go on", held=True),
        lane("gpu8", "Stopped", "the device is lost: it fell off the bus", lost="it fell off the bus", memory=None),
        lane("gpu10", "Running", "", active=computing("no-end", total=None, remaining_s=None), memory=None),
    ]
    return status(*lanes, queued=134)


def scene(shown: StatusResult, events: tuple[Mapping[str, Any], ...] = EVENTS, **more: Any) -> Scene:
    return Scene(status=shown, events=events, now=NOON, **more)
