"""A liar, an honest worker and strangers, at the real crew and reception: lies cost the liar's own session alone."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from daemon import messages, obstacles
from states.events import Cancel, DrainLane, Pause, Resume, Swap
from tests.fuzz.frames import LINE_LIMIT, Frame
from tests.fuzz.house import House
from tests.fuzz.lab import Broken, Outcome, eventually
from tests.fuzz.lies import GENERATION, NOW, SESSION, Do, Life, Performance, Say
from tests.fuzz.puppets import Puppet, Puppets

ITEMS = 20
GO_TIMEOUT_S = 0.05
RETURN_TIMEOUT_S = 10.0
AFRESH = 100  # performances, after which the record is begun anew


class WorkerPlay:
    """The stage of these performances."""

    async def start(self, folder: Path) -> None:
        """Begin to serve."""
        self._folder, self._number, self._state = folder, 0, 0
        self._bugs: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self._bugs.append(str(context)))
        self.puppets = Puppets()
        self._move_in()

    def _move_in(self) -> None:
        self._state += 1
        self._home = self._folder / str(self._state)
        self._home.mkdir()
        self.house = House(self._home, self.puppets)

    async def rest(self) -> None:
        """Strangers are hung up on a moment after they were told to drain."""
        arrivals = self.house.reception._arrivals
        await eventually(lambda: not arrivals, lambda: f"{len(arrivals)} strangers stay")

    async def close(self) -> None:
        """Serve no more."""
        await self.house.close()
        await self.puppets.bury()
        shutil.rmtree(self._home)

    async def play(self, example: Performance) -> Outcome:
        """Play one evening; everything has ended after it."""
        outcome = Outcome()
        said = [act.frame for life in example.lives for act in life.acts if isinstance(act, Say)]
        outcome.kinds.update(frame.kind for frame in said)
        said += [frame for stranger in example.strangers for frame in stranger]
        outcome.frames, outcome.sent_bytes = len(said), sum(len(frame.data) for frame in said)
        outcome.kinds["strangers"] += len(example.strangers)
        outcome.kinds["daemons killed"] += example.reborn
        evening = Evening(self, example)
        self._number += 1
        try:
            await evening.play(self._number)
        except (Broken, AssertionError) as broken:
            outcome.problem = f"{broken}; {evening.story}"
        if self._bugs or self.house.bug:
            notes = getattr(self.house.bug, "__notes__", "")
            outcome.problem = f"{outcome.problem}; bugs: {self.house.bug!r} {notes} {self._bugs}; {evening.story}"[
                :4000
            ]
        outcome.answers.update(self.house.facts)
        outcome.answers["faults"] += len(self.house.faults)
        outcome.answers["turned away"] += self.house.turned_away
        for counted in (self.house.facts, self.house.faults, self.house.finished, self.house.ends):
            counted.clear()
        self.house.turned_away = 0
        if outcome.problem is not None or self._number % AFRESH == 0:
            await self.close()
            self._bugs.clear()
            self._move_in()
        else:
            await self.puppets.bury()
        return outcome

    async def reborn(self) -> None:
        """The daemon is killed, and started again."""
        old = self.house
        await old.close()
        self.house = House(self._home, self.puppets)
        for name in ("facts", "faults", "finished", "ends"):
            getattr(self.house, name).update(getattr(old, name))
        self.house.turned_away = old.turned_away


class Evening:
    """One performance."""

    def __init__(self, play: WorkerPlay, example: Performance) -> None:
        self._play, self._example = play, example
        self._lives = list(example.lives)
        self.story: list[str] = []

    @property
    def _house(self) -> House:
        return self._play.house

    async def play(self, number: int) -> None:
        """Both sessions end: the honest one done, the other somehow."""
        liar, honest = f"liar{number}", f"honest{number}"
        self._liar = liar
        puppets = self._play.puppets
        puppets.returning = self._example.reborn
        puppets.actors = {liar: self._lie, honest: self._work}
        for name in (liar, honest) if self._example.liar_first else (honest, liar):
            await self._house.queue(name, prepares=self._example.prepares or name == honest)
        strangers = [asyncio.ensure_future(self._stranger(frames)) for frames in self._example.strangers]
        await eventually(lambda: self._over(liar, honest), lambda: self._left(liar, honest))
        for stranger in strangers:
            stranger.cancel()
        await asyncio.gather(*strangers, return_exceptions=True)
        self._house.look()
        house = self._house
        if house.ends[honest] != 1 or house.finished.get(honest) != ITEMS:
            raise Broken(f"the honest session: {house.ends[honest]} ends, {house.finished.get(honest)} items")
        if house.ends[liar] != 1:
            raise Broken(f"the liar's session ended {house.ends[liar]} times")

    def _over(self, liar: str, honest: str) -> bool:
        if self._house.bug is not None:
            raise Broken("a decision raised")
        if not self._lives and not self._house.ends[liar] and any(s.name == liar for s in self._house.loop.world.queue):
            self._house.loop.post(Cancel(time.monotonic(), liar))
        if self._house.loop.world.lanes["cpu"].held:  # the liar may be gone before it could resume what it paused
            self._house.loop.post(Resume(time.monotonic(), "cpu"))
        ended = self._house.ends[liar] and self._house.ends[honest]
        return bool(ended) and not any(True for lane in self._house.loop.world.lanes.values() for _ in lane.workers())

    def _left(self, liar: str, honest: str) -> str:
        lane, world = self._house.loop.world.lanes["cpu"], self._house.loop.world
        reasons = obstacles.waiting_reasons(world, time.monotonic())
        return (
            f"the evening does not end: {liar} {self._house.ends[liar]}, {honest} {self._house.ends[honest]}, "
            f"lane {lane.state.value}, workers {[(w.session.name, w.phase.value) for w in lane.workers()]}, {reasons}"
        )

    # The liar

    async def _lie(self, puppet: Puppet) -> None:
        life = self._lives.pop(0) if self._lives else Life((), -9)
        house = self._house
        await puppet.until(lambda: bool(puppet.orders), RETURN_TIMEOUT_S)
        lines, sure = b"", True
        for act in life.acts:
            self.story.append(act.frame.data[:200].decode(errors="replace") if isinstance(act, Say) else act.what)
            if isinstance(act, Say):
                data = self._put_in(act.frame, puppet)
                sure = await puppet.say(data) and sure
                lines += data
            elif act.what in ("reborn", "close"):
                sure = False
                await self._do(act, puppet)
            else:
                await self._do(act, puppet)
        self.story.append(f"exits with {life.status}")
        puppet.exit(life.status)
        await eventually(
            lambda: all(worker.generation != puppet.generation for worker in self._house.crew.alive()),
            lambda: "a worker that exits stays",
        )
        if not sure or house.gone:
            return
        owed = fault_of(lines, self._liar, puppet.generation)
        told = self._house.faults.get(puppet.generation)
        if (owed is None) is not (told is None):
            raise Broken(f"the fault that is due: {owed}; the fault that was told: {told}")

    def _put_in(self, frame: Frame, puppet: Puppet) -> bytes:
        data = frame.data.replace(SESSION, json.dumps(puppet.session).encode())
        data = data.replace(GENERATION, str(puppet.generation).encode())
        return data.replace(NOW, str(time.monotonic()).encode()) + b"\n"

    async def _do(self, act: Do, puppet: Puppet) -> None:
        post, now = self._house.loop.post, time.monotonic()
        match act.what:
            case "go":
                await puppet.until(lambda: puppet.told("go", "drain", "cancel"), GO_TIMEOUT_S)
            case "breathe":
                await asyncio.sleep(0.005)
            case "look":
                self._house.look()
            case "cancel":
                post(Cancel(now, self._liar))
            case "swap":
                post(Swap(now, "cpu", force=True))
            case "drain":
                post(DrainLane(now, "cpu"))
            case "pause":
                post(Pause(now, "cpu"))
            case "reborn":
                await self._play.reborn()
                await puppet.come_back(self._house.worker_socket, RETURN_TIMEOUT_S)
            case "half_close":
                puppet.half_close()
            case "close":
                puppet.close()

    # The honest one

    async def _work(self, puppet: Puppet) -> None:
        """A worker in order, that comes back to a new daemon."""
        await puppet.until(lambda: bool(puppet.orders), RETURN_TIMEOUT_S)
        assign = puppet.orders[0]
        said: dict[str, Any] = {"session": puppet.session, "generation": puppet.generation, "pid": puppet.process.pid}
        said |= {
            "type": "hello",
            "protocol": 1,
            "phase": "loading",
            "cursor": assign["cursor"],
            "done": assign["cursor"],
        }
        await puppet.tell(**said)
        tiers = 0
        while not puppet.told("go"):
            wanted = [each["tier"] for each in puppet.orders if each["type"] in ("assign", "advance")]
            for tier in wanted[tiers:]:
                await puppet.tell(type="ready", tier=tier, seconds=0.001, total=ITEMS, peak_bytes=1 << 20)
            tiers = len(wanted)
            await puppet.until(partial(puppet.told_more_than, len(puppet.orders)), RETURN_TIMEOUT_S)
            if puppet.lost or puppet.told("drain", "cancel") or puppet.process.poll() is not None:
                puppet.exit(75 if puppet.lost else 0)
                return
        await self._compute(puppet, said)
        puppet.exit(0)

    async def _compute(self, puppet: Puppet, said: dict[str, Any]) -> None:
        async def tell(type_: str, **fields: Any) -> None:
            said.update({key: value for key, value in fields.items() if key != "at"})
            if not puppet.lost and await puppet.tell(type=type_, **fields):
                return
            if await puppet.come_back(self._house.worker_socket, RETURN_TIMEOUT_S):
                await puppet.tell(**said)

        said |= {"tier": "warm", "total": ITEMS, "phase": "computing", "began_at": time.monotonic()}
        await tell("started", at=said["began_at"])
        while said["done"] < ITEMS and not puppet.told("drain", "cancel"):
            await asyncio.sleep(0.0002)
            await tell("progress", done=said["done"] + 1, cursor=said["done"], total=ITEMS)
        if said["done"] == ITEMS:
            await tell("last_batch")
        said |= {"phase": "draining", "ended_at": time.monotonic()}
        await tell("quiesced", at=said["ended_at"], done=said["done"], remaining=ITEMS - said["done"])
        said["phase"] = "committed"
        await tell("committed", cursor=said["done"])

    # Strangers

    async def _stranger(self, frames: tuple[Frame, ...]) -> None:
        """Whoever else comes is told to drain, at most, and hung up on."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as sock, suppress(OSError):
            sock.setblocking(False)
            await loop.sock_connect(sock, str(self._house.worker_socket))
            for frame in frames:
                data = frame.data.replace(SESSION, json.dumps(self._liar).encode())
                data = data.replace(GENERATION, str(self._house.loop.world.generation).encode())
                with suppress(TimeoutError):
                    await asyncio.wait_for(loop.sock_sendall(sock, data.replace(NOW, b"1.0") + b"\n"), 0.1)
            heard = b""
            while chunk := await loop.sock_recv(sock, 1 << 16):
                heard += chunk
                if set(heard.split(b"\n")) - {b'{"type":"drain"}', b""}:
                    raise Broken(f"a stranger was told {heard[:300]!r}")


def fault_of(data: bytes, session: str, generation: int) -> str | None:
    """What is wrong with what a worker said, by docs/worker-protocol.md; None where it is in order."""
    greeted = False
    for line in data.split(b"\n")[:-1]:
        if len(line) > LINE_LIMIT:
            return "a line that is too long"
        try:
            message = messages.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return f"no message: {line[:100]!r}"
        if isinstance(message, messages.Hello):
            if (message.protocol, message.session, message.generation) != (1, session, generation):
                return "a hello of somebody else"
            greeted = True
        elif not greeted:
            return "a word before hello"
    return None
