"""A world while one step changes it. The only mutable thing of the core; it never outlives its step."""

from __future__ import annotations

from bisect import insort
from dataclasses import replace
from typing import Any

from states.effects import Effect
from states.events import Event
from states.notes import Note
from states.snapshot import Lane, Limits, State, Worker, World
from states.work import Profile, Session


class Draft:
    """What `step` works on: the world before, the changes so far, and the lane in hand.

    `state` is what the engine of the table reads and writes.
    """

    def __init__(self, world: World, event: Event) -> None:
        self.before = world
        self.event = event
        self.at = event.at
        self.lanes: dict[str, Lane] = dict(world.lanes)
        self.queue = world.queue
        self.profiles = world.profiles
        self.generation = world.generation
        self.stopping = world.stopping
        self.host = world.host
        self.notes: list[Note] = []
        self.effects: list[Effect] = []
        self.name = ""
        self._world = replace(world, lanes=self.lanes)

    @property
    def world(self) -> World:
        """The world as it stands now. Guards ask for it many times in a step: it is made anew only where it differs.

        Its lanes are those of the draft, so it shows their changes by itself.
        """
        made = self._world
        same = made.queue is self.queue and made.profiles is self.profiles and made.host is self.host
        if not (same and made.generation == self.generation and made.stopping == self.stopping):
            self._world = made = replace(
                made,
                queue=self.queue,
                profiles=self.profiles,
                host=self.host,
                generation=self.generation,
                stopping=self.stopping,
            )
        return made

    @property
    def limits(self) -> Limits:
        """The configured limits; no step changes them."""
        return self.before.limits

    @property
    def lane(self) -> Lane:
        """The lane in hand."""
        return self.lanes[self.name]

    def change(self, **fields: Any) -> None:
        """Change fields of the lane in hand."""
        self.lanes[self.name] = replace(self.lane, **fields)

    def put(self, worker: Worker, **fields: Any) -> Worker:
        """Change a worker of the lane in hand, wherever in the lane it is."""
        changed, lane = replace(worker, **fields), self.lane
        for role in ("active", "standby"):
            if getattr(lane, role) is worker:
                self.change(**{role: changed})
        for role in ("retiring", "leaving"):
            group: tuple[Worker, ...] = getattr(lane, role)
            if worker in group:
                self.change(**{role: tuple(changed if each is worker else each for each in group)})
        return changed

    @property
    def state(self) -> State:
        """The state of the lane in hand."""
        return self.lane.state

    @state.setter
    def state(self, to: State) -> None:
        self.change(state=to, since=self.at)

    def note(self, note: Note) -> None:
        """Tell something of this step."""
        self.notes.append(note)

    def ask(self, effect: Effect) -> None:
        """Ask the shell for something."""
        self.effects.append(effect)

    def enqueue(self, *sessions: Session) -> None:
        """Put sessions into the queue, each at its rank."""
        queue = list(self.queue)  # in order already: of thousands, only a few are looked at for a place
        for session in sessions:
            insort(queue, session, key=lambda each: each.rank)
        self.queue = tuple(queue)

    def dequeue(self, name: str) -> Session:
        """Take a session out of the queue."""
        place = next(index for index, each in enumerate(self.queue) if each.name == name)
        session = self.queue[place]
        self.queue = self.queue[:place] + self.queue[place + 1 :]
        return session

    def learn(self, key: str, profile: Profile) -> None:
        """Keep what was measured of a model."""
        self.profiles = {**self.profiles, key: profile}
