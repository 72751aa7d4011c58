"""What can happen to one node, each fault with one job.

A fault strikes one node by name and gives back what heals it. It knows nothing of who is writing.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final

from shardline.core.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shardline.cli.cables import Cables, Place
    from shardline.cli.chaos.glutton import Glutton
    from shardline.cli.local import LocalSwarm

__all__ = ["FAULTS", "Fault", "Field"]


@dataclass(frozen=True, slots=True)
class Field:
    """Where faults strike."""

    local: LocalSwarm
    glutton: Glutton | None = None
    numbers: Iterator[int] = field(default_factory=count)

    def cable(self, name: str) -> tuple[Cables, Place]:
        """A node's cable; raises Unsupported if it has none."""
        place, cables = self.local.place_of(name), self.local.cables
        if place is None or cables is None:
            raise Unsupported(f"node {name} has no cable of its own")
        return cables, place

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a node's process if it lives."""
        process = self.local.processes[name]
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, number)


def kill(stage: Field, name: str) -> Callable[[], None]:
    """A pulled plug; another machine takes the node's place at once."""
    stage.local.kill(name)
    stage.local.replace(name, f"node-{next(stage.numbers)}")
    return lambda: None


def freeze(stage: Field, name: str) -> Callable[[], None]:
    """A machine that stands still, as one does that swaps or sleeps."""
    stage.signal(name, signal.SIGSTOP)
    return lambda: stage.signal(name, signal.SIGCONT)


def cut(stage: Field, name: str) -> Callable[[], None]:
    """A pulled network cable: the node lives, and nobody hears of it."""
    cables, place = stage.cable(name)
    cables.cut(place)
    return lambda: cables.heal(place)


def slow(stage: Field, name: str) -> Callable[[], None]:
    """A link that got slow."""
    cables, place = stage.cable(name)
    cables.slow(place)
    return lambda: cables.heal(place)


def corrupt(stage: Field, name: str) -> Callable[[], None]:
    """One flipped bit in each of the node's connections to others, each way: TLS ends them.

    Not in the caller's: who hears of it may fall over (decision 0002), and this process is it.
    """
    cables, place = stage.cable(name)
    for other in stage.local.processes.keys() - {name}:
        cables.spoil(place, stage.cable(other)[1])
    return lambda: None


def full(stage: Field, name: str) -> Callable[[], None]:
    """Another caller has taken all the room that the node has."""
    glutton = stage.glutton
    if glutton is None:
        raise Unsupported("there is no glutton")
    glutton.fill(name)
    return glutton.leave


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, and what it asks for."""

    strike: Callable[[Field, str], Callable[[], None]]
    cabled: bool = False
    """It needs nodes with cables of their own."""
    lasts: bool = True
    """It goes on until it is healed, so that others can begin to write meanwhile."""
    at_start: bool = False
    """It strikes before the writing starts: whoever has a seat already would not notice."""


FAULTS: Final = {
    "kill": Fault(kill, lasts=False),
    "freeze": Fault(freeze),
    "slow": Fault(slow, cabled=True),
    "cut": Fault(cut, cabled=True),
    "corrupt": Fault(corrupt, cabled=True, lasts=False),
    "full": Fault(full, at_start=True),
}
