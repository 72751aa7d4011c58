"""Run one neural network, too large for any machine you have, over many unequal machines.

`async with shardline.join(invite) as swarm: model = await swarm.model("…")` gives a model whose
`generate` takes the arguments of Transformers'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardline.client import Swarm, SwarmModel, Terms, join

__all__ = ["Swarm", "SwarmModel", "Terms", "join"]


def __getattr__(name: str) -> object:
    """Load the client, and torch with it, only when somebody asks for it."""
    if name not in __all__:
        raise AttributeError(f"module 'shardline' has no attribute {name!r}")
    from shardline import client  # noqa: PLC0415  (control rooms must import without torch)

    return getattr(client, name)
