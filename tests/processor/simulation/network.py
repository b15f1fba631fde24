"""What lies between a host and its store: time, and what goes wrong on the way."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from eventlog.errors import PreconditionFailedError, StoreUnavailableError
from eventlog.groups.steps import StoreCall
from tests.processor.simulation.blobs import Actor, SimulatedBlobs
from tests.processor.simulation.history import History
from tests.processor.simulation.timeline import Timeline
from tests.processor.simulation.truth import IDS

__all__ = ["FINE", "Answered", "Network", "Weather"]

Answered: TypeAlias = Callable[[Any, Exception | None], object]


class Weather(NamedTuple):
    """How bad it is.

    Attributes:
        faults: of 1, how many calls go wrong.
        slow: of 1, how many take up to `slowest` seconds.
        stale: of 1, how many listings are up to `lag` seconds old.
    """

    faults: float = 0.0
    slow: float = 0.0
    slowest: float = 0.0
    stale: float = 0.0
    lag: float = 0.0


FINE: Final = Weather()

_TRIP: Final = (0.002, 0.03)
"""Seconds from a host to the store, or back, mostly."""

_PATIENCE: Final = (0.1, 8.0)
"""After how many seconds a call is given up to which no answer comes."""

_LATEST: Final = 40.0
"""So much later, in seconds, something is done that was given up."""


class Network:
    """Brings calls to the store, and answers back. Hosts that are dead or paused it does not know.

    Attributes:
        weather: as it is now, for everybody.
        busy_until: when the last of the calls that are under way will have been answered.
    """

    def __init__(
        self, timeline: Timeline, chance: random.Random, blobs: SimulatedBlobs, history: History
    ) -> None:
        self.weather = FINE
        self.busy_until = 0.0
        self._timeline = timeline
        self._chance = chance
        self._blobs = blobs
        self._history = history

    def call(self, actor: Actor, call: StoreCall, answered: Answered, *, cut: bool = False) -> None:
        """Make a call; `answered` is told what it gave, or raised.

        Args:
            cut: the way to the store is cut.
        """
        weather = self.weather
        there, back = self._trip(), self._trip()
        if cut:
            self._give_up(actor, answered, "the store cannot be reached")
        elif weather is not FINE and self._chance.random() < weather.faults:
            self._fail(actor, call, answered)
        else:
            self._after(there, lambda: self._arrive(actor, call, answered, back))

    def _trip(self) -> float:
        weather = self.weather
        if weather is not FINE and self._chance.random() < weather.slow:
            return self._chance.uniform(0, weather.slowest)
        return self._chance.uniform(*_TRIP)

    def _after(self, seconds: float, action: Callable[[], object]) -> None:
        self.busy_until = max(self.busy_until, self._timeline.now + seconds)
        self._timeline.after(seconds, action)

    def _fail(self, actor: Actor, call: StoreCall, answered: Answered) -> None:
        fault = self._chance.choice(("refused", "lost", "late", "repeated"))
        after = self._after
        if fault == "refused":
            self._give_up(actor, answered, "the store is away")
        elif fault == "lost":
            after(self._trip(), lambda: self._do(actor, call, "its answer is lost"))
            self._give_up(actor, answered, "no answer")
        elif fault == "late":
            later = self._trip() + self._chance.uniform(_PATIENCE[1], _LATEST)
            after(later, lambda: self._do(actor, call, "LATE: it was given up before"))
            self._give_up(actor, answered, "no answer yet")
        else:
            back = self._trip()
            after(self._trip(), lambda: self._arrive(actor, call, answered, back, repeated=True))

    def _give_up(self, actor: Actor, answered: Answered, why: str) -> None:
        def give_up() -> None:
            self._history.note(self._timeline.now, actor, f"is told: {why}")
            answered(None, StoreUnavailableError(why))

        self._after(self._chance.uniform(*_PATIENCE), give_up)

    def _arrive(
        self,
        actor: Actor,
        call: StoreCall,
        answered: Answered,
        back: float,
        *,
        repeated: bool = False,
    ) -> None:
        answer, error = self._do(actor, call, "")
        if repeated and error is None and self._blobs.did[0] == "put":
            why = "the client sent it twice, and the second met the first"
            self._history.note(
                self._timeline.now, actor, f"will be told that it was refused: {why}"
            )
            error = PreconditionFailedError(why)
        self._after(back, lambda: answered(answer, error))

    def _do(self, actor: Actor, call: StoreCall, remark: str) -> tuple[Any, Exception | None]:
        """It takes effect."""
        blobs, weather = self._blobs, self.weather
        blobs.actor = actor
        stale = weather is not FINE and self._chance.random() < weather.stale
        blobs.lag = self._chance.uniform(0, weather.lag) if stale else 0.0
        try:
            answer, error = call(blobs), None
        except PreconditionFailedError as refused:
            answer, error = None, refused
        self._note(actor, remark)
        return answer, error

    def _note(self, actor: Actor, remark: str) -> None:
        verb, name, outcome = self._blobs.did
        dull = not remark and (verb in ("get", "list") or verb + outcome[:1] == "putv")
        self._history.note(
            self._timeline.now,
            actor,
            lambda: _in_words(verb, name, outcome, remark),
            partition=actor.partition,
            dull=dull,
        )


def _in_words(verb: str, name: str, outcome: str, remark: str) -> str:
    said = ", ".join(part for part in (outcome, remark) if part)
    what = f"{verb} {name.removeprefix(IDS.place)}"
    return f"{what}: {said}" if said else what
