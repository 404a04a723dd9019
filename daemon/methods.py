"""The control socket's methods, declared once: what each takes, answers and refuses, and who may call it.

`docs/control.md` and its JSON Schema are generated from here; the server and the client read the same declarations.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from daemon.results import (
    CancelResult,
    DevicesResult,
    EventLine,
    EventsResult,
    InspectResult,
    LanesResult,
    ListResult,
    LogsResult,
    MoveResult,
    ReloadResult,
    RetryResult,
    ShowResult,
    ShutdownResult,
    StatusResult,
    SubmitResult,
    SwapResult,
    TimelinePiece,
    TimelineResult,
    VersionResult,
)
from daemon.results_insight import ExplainResult, PlanResult, WhyResult
from daemon.wire import (
    Access,
    CancelParams,
    Code,
    EventsParams,
    ExplainParams,
    InspectParams,
    LaneParams,
    ListParams,
    LogsParams,
    MoveParams,
    NameParams,
    Params,
    PlanParams,
    ShutdownParams,
    StatusParams,
    SubmitParams,
    SwapParams,
    TimelineParams,
    WhyParams,
)


class Method(Struct, frozen=True, kw_only=True):
    """One method. `stream` is what its notifications carry, for the one that goes on after its reply.

    `alone`: it takes no part in a batch, for it may take long.
    """

    name: str
    summary: str
    access: Access
    params: type[Params]
    result: type[Struct]
    errors: tuple[Code, ...] = ()
    stream: type[Struct] | None = None
    alone: bool = False


_ACT = (Code.NOT_PERMITTED, Code.REFUSED)
_METHODS = (
    Method(
        name="submit",
        summary="Queue the sessions of a session file, all of them or none.",
        access=Access.ACT,
        params=SubmitParams,
        result=SubmitResult,
        errors=_ACT,
    ),
    Method(
        name="inspect",
        summary="What a model on disk takes and gives, and needs of memory. It acts, because a model is a program.",
        access=Access.ACT,
        params=InspectParams,
        result=InspectResult,
        errors=_ACT,
    ),
    Method(
        name="status",
        summary="The daemon, its lanes with what they do and why, and the queue.",
        access=Access.LOOK,
        params=StatusParams,
        result=StatusResult,
    ),
    Method(name="list", summary="Sessions, one row each.", access=Access.LOOK, params=ListParams, result=ListResult),
    Method(
        name="show",
        summary="Everything known of one session.",
        access=Access.LOOK,
        params=NameParams,
        result=ShowResult,
        errors=(Code.NOT_FOUND,),
    ),
    Method(
        name="cancel",
        summary="End sessions: a queued one at once, a running one after the batch in flight.",
        access=Access.ACT,
        params=CancelParams,
        result=CancelResult,
        errors=(*_ACT, Code.NOT_FOUND),
    ),
    Method(
        name="retry",
        summary="Queue a failed or cancelled session again, with all its attempts; it resumes its own output.",
        access=Access.ACT,
        params=NameParams,
        result=RetryResult,
        errors=(*_ACT, Code.NOT_FOUND),
    ),
    Method(
        name="move",
        summary="Give a queued session another place among those of its priority.",
        access=Access.ACT,
        params=MoveParams,
        result=MoveResult,
        errors=(*_ACT, Code.NOT_FOUND),
    ),
    Method(
        name="swap",
        summary="Hand a lane over now: the next session is prepared, the running one drained and queued again.",
        access=Access.ACT,
        params=SwapParams,
        result=SwapResult,
        errors=(*_ACT, Code.NOT_FOUND),
    ),
    Method(
        name="drain",
        summary="Pause lanes, and put their sessions back in the queue at their cursors.",
        access=Access.ACT,
        params=LaneParams,
        result=LanesResult,
        errors=(*_ACT, Code.NOT_FOUND),
    ),
    Method(
        name="pause",
        summary="Start no further session on lanes; what runs goes on.",
        access=Access.ACT,
        params=LaneParams,
        result=LanesResult,
        errors=(*_ACT, Code.NOT_FOUND),
    ),
    Method(
        name="resume",
        summary="Let lanes start sessions again.",
        access=Access.ACT,
        params=LaneParams,
        result=LanesResult,
        errors=(*_ACT, Code.NOT_FOUND),
    ),
    Method(
        name="logs",
        summary="A piece of what a session's worker printed. Asking again from `next_offset` follows it.",
        access=Access.LOOK,
        params=LogsParams,
        result=LogsResult,
        errors=(Code.NOT_FOUND,),
    ),
    Method(
        name="devices",
        summary="The devices and their memory.",
        access=Access.LOOK,
        params=Params,
        result=DevicesResult,
    ),
    Method(
        name="events",
        summary="What happens, as it happens. After the reply the connection carries `event` notifications only.",
        access=Access.LOOK,
        params=EventsParams,
        result=EventsResult,
        stream=EventLine,
    ),
    Method(
        name="timeline",
        summary="The record of a stretch of time: what was decided, and the devices' memory. A stream, like `events`.",
        access=Access.LOOK,
        params=TimelineParams,
        result=TimelineResult,
        stream=TimelinePiece,
    ),
    Method(
        name="why",
        summary="Why a lane, or a session, is as it is: in a sentence, with the figures behind it.",
        access=Access.LOOK,
        params=WhyParams,
        result=WhyResult,
        errors=(Code.NOT_FOUND,),
    ),
    Method(
        name="plan",
        summary="What is predicted of the queue: when each session is prepared, begins and ends, and on which lane.",
        access=Access.LOOK,
        params=PlanParams,
        result=PlanResult,
        errors=(Code.REFUSED,),
        alone=True,
    ),
    Method(
        name="explain",
        summary="What the gap of a handover was spent on, and what would make it shorter.",
        access=Access.LOOK,
        params=ExplainParams,
        result=ExplainResult,
        errors=(Code.NOT_FOUND,),
    ),
    Method(
        name="reload",
        summary="Read the configuration again. All of it counts from then on, or, where anything is wrong, none.",
        access=Access.ACT,
        params=Params,
        result=ReloadResult,
        errors=_ACT,
    ),
    Method(
        name="shutdown",
        summary="Drain every lane and end the daemon; sessions keep their places and cursors, or run on without it.",
        access=Access.ACT,
        params=ShutdownParams,
        result=ShutdownResult,
        errors=_ACT,
    ),
    Method(
        name="version",
        summary="The version of the daemon and of this protocol.",
        access=Access.LOOK,
        params=Params,
        result=VersionResult,
    ),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _METHODS}
