"""What a node asks of the model that it serves, and the one place that decides which kind it is.

A checkpoint is served by its blocks (chain), a cut graph by its stages; to all else here, to
records and to callers both are blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch

from shardline.codec import dtype_name
from shardline.core.errors import PeerFault, Unsupported
from shardline.core.spans import Span
from shardline.model import (
    STEP_TOKENS,
    Crossing,
    LoadedSpan,
    LoadedStages,
    PagedLayer,
    StageCrossing,
    Weights,
    decode_rate,
    fingerprint,
    is_graph,
    load_span,
    load_stages,
    open_graph,
    resolve,
    stage_rate,
    trace,
)
from shardline.node.wiring import Wires

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardline.model import ChainPlan, GraphPlan, Kind
    from shardline.runtime import RunsBlocks

__all__ = ["ChainModel", "GraphModel", "Held", "Model", "open_model"]

STEP_BYTES_LEAST: Final = 2**20
"""What a step of stages is counted as beside its values."""


@dataclass(frozen=True, slots=True)
class Held:
    """How a person wants blocks to be held."""

    dtype: str | None = None
    """float32 or bfloat16; None is the checkpoint's own."""
    weights: Kind | None = None
    """None is in that dtype."""
    weights_folder: Path | None = None
    """Where quantised weights are kept for the next start."""
    cache: type[PagedLayer] = PagedLayer
    """How keys and values are held."""


class Model(Protocol):
    """A model as a node sees it: blocks that weigh, are read, and are run."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def fingerprint(self) -> str:
        """Its identity: equal for equal weights and configuration."""
        ...

    @property
    def terms(self) -> str:
        """What the nodes of a chain have to agree on."""
        ...

    @property
    def block_bytes(self) -> tuple[int, ...]:
        """Bytes of each block's weights, as they are held."""
        ...

    @property
    def step_bytes(self) -> int:
        """What one step of one sequence carries from block to block, as it is computed."""
        ...

    @property
    def exceptions(self) -> tuple[tuple[str, ...], int]:
        """Parameters, and a number of blocks whose cache, stay whole though others do not."""
        ...

    def token_bytes(self, span: Span) -> int:
        """What a token of one sequence takes on this span beside the weights."""
        ...

    def wires(self, coarsest: str) -> Wires:
        """How its steps are read and written."""
        ...

    def read(self, span: Span, device: torch.device) -> Mapping[int, Any]:
        """Blocks in memory; raises CorruptWeights and whatever reading memory or disk may."""
        ...

    def runs(self, blocks: Mapping[int, Any], room_bytes: int) -> RunsBlocks:
        """What the engine runs: these blocks, with so much memory beside their weights."""
        ...

    def rate(self, blocks: Mapping[int, Any], span: Span, budget_s: float) -> float:
        """Single steps a second through one of these blocks; raises Unsupported, StepFailed."""
        ...


def open_model(model: str, held: Held, device: torch.device) -> Model:
    """The folder of a cut graph, or a checkpoint: a directory or a hub id.

    Raises NoSuchModel, CorruptWeights, NoChain or Unsupported.
    """
    folder = Path(model).expanduser()
    if is_graph(folder):
        if held != Held(weights_folder=held.weights_folder):
            raise Unsupported(
                f"{model} is a graph in stages, which are served as they were saved: "
                "--dtype, --weights and --cache are for checkpoints"
            )
        return GraphModel(open_graph(folder))
    plan = trace(resolve(model))
    own = held.dtype or str(plan.config.dtype).removeprefix("torch.")
    dtype = torch.float32 if own == "float32" else torch.bfloat16
    weights = None
    if held.weights is not None:
        if device.type != "cpu":
            raise Unsupported(f"{held.weights.word} weights are built for the CPU, not {device}")
        weights = Weights.plan(plan, dtype, held.weights, held.weights_folder)
    cache = held.cache if any(plan.cache_vectors_per_token) else PagedLayer
    fewer = held.cache is not PagedLayer
    whole = plan.cache_vectors_per_token.count(0) if fewer else 0
    return ChainModel(plan, dtype, weights, cache, fingerprint(plan.model_dir), whole)


@dataclass(frozen=True, slots=True)
class ChainModel:
    """A checkpoint's chain of blocks."""

    plan: ChainPlan
    dtype: torch.dtype
    weights: Weights | None = None
    """How the blocks are held; None is as they are."""
    cache: type[PagedLayer] = PagedLayer
    """How keys and values are held."""
    fingerprint: str = ""
    cache_whole: int = 0
    """Blocks that keep their cache as it is, though others hold it in fewer bits."""

    @property
    def name(self) -> str:
        """See Model."""
        return self.plan.model_dir.name

    @property
    def terms(self) -> str:
        """The dtype and, if fewer, the bits held."""
        weights = self.weights.kind.word if self.weights else ""
        return "+".join(filter(None, (dtype_name(self.dtype), weights, self.cache.word)))

    @property
    def block_bytes(self) -> tuple[int, ...]:
        """See Model."""
        weights = self.weights
        return weights.block_bytes if weights else self.plan.block_bytes(self.dtype)

    @property
    def step_bytes(self) -> int:
        """See Model."""
        return self.plan.step_elements * self.dtype.itemsize

    @property
    def exceptions(self) -> tuple[tuple[str, ...], int]:
        """See Model."""
        return self.weights.whole if self.weights else (), self.cache_whole

    def token_bytes(self, span: Span) -> int:
        """Bytes of cache, as they are held.

        What a step needs beside, such as a block's keys and values for attention to read, counts
        as little as its activations do.
        """
        return self.plan.cache_bytes_per_token(self.dtype, span, self.cache)

    def wires(self, coarsest: str) -> Wires:
        """See Model."""
        return Wires(coarsest, self._crossing)

    def _crossing(self, tree: Any) -> Crossing:  # noqa: ANN401  (what a peer sent)
        """A step of this model; raises PeerFault, before anything of it is counted."""
        crossing = Crossing.from_tree(tree)
        joints = self.plan.joints[crossing.start : crossing.start + 1]
        wanted = [len(place.shape) for joint in joints for place in joint.takes]
        if (ranks := [tensor.dim() for tensor in crossing.carried]) != wanted:
            raise PeerFault(f"hidden states of rank {ranks} to block {crossing.start}")
        return crossing

    def read(self, span: Span, device: torch.device) -> Mapping[int, Any]:
        """See Model."""
        loaded = load_span(self.plan, span, dtype=self.dtype, device=device, weights=self.weights)
        loaded.warm()
        return loaded.blocks

    def runs(self, blocks: Mapping[int, Any], room_bytes: int) -> LoadedSpan:
        """See Model; the room is the engine's, for caches."""
        del room_bytes
        return LoadedSpan(self.plan, _hull(blocks), dict(blocks), self.cache)

    def rate(self, blocks: Mapping[int, Any], span: Span, budget_s: float) -> float:
        """Single-token steps."""
        return decode_rate(self.runs(blocks, 0).part(span), budget_s=budget_s)


@dataclass(frozen=True, slots=True)
class GraphModel:
    """A graph's stages."""

    plan: GraphPlan

    @property
    def name(self) -> str:
        """See Model."""
        return self.plan.name

    @property
    def fingerprint(self) -> str:
        """See Model."""
        return self.plan.fingerprint

    @property
    def terms(self) -> str:
        """See Model."""
        return self.plan.terms

    @property
    def block_bytes(self) -> tuple[int, ...]:
        """See Model."""
        return tuple(note.parameter_bytes for note in self.plan.stages)

    @property
    def step_bytes(self) -> int:
        """Of a step like the example's."""
        return self.plan.step_bytes

    @property
    def exceptions(self) -> tuple[tuple[str, ...], int]:
        """See Model."""
        return (), 0

    def token_bytes(self, span: Span) -> int:
        """A session is counted as one step like the example's, as if all ran at once."""
        stages = self.plan.stages[span.start : span.stop]
        peak_bytes = max(note.peak_bytes for note in stages)
        return (peak_bytes + STEP_BYTES_LEAST) // STEP_TOKENS

    def wires(self, coarsest: str) -> Wires:
        """See Model; results are never coarse."""
        return Wires(coarsest, StageCrossing.from_tree)

    def read(self, span: Span, device: torch.device) -> Mapping[int, Any]:
        """See Model."""
        return load_stages(self.plan, span, device).stages

    def runs(self, blocks: Mapping[int, Any], room_bytes: int) -> LoadedStages:
        """See Model; the engine runs one step at a time, which may take all the room."""
        return LoadedStages(self.plan, _hull(blocks), blocks, room_bytes)

    def rate(self, blocks: Mapping[int, Any], span: Span, budget_s: float) -> float:
        """Steps like the example's, through a stage of mean work."""
        loaded = LoadedStages(self.plan, _hull(blocks), blocks)
        return stage_rate(loaded.part(span), budget_s=budget_s)


def _hull(blocks: Mapping[int, Any]) -> Span:
    """All of these; those between them may not be here."""
    return Span(min(blocks, default=0), max(blocks, default=0) + 1)
