"""A graph that was cut, in a folder: a page that says what is where, and a folder for each stage.

Whoever calls it needs the page and the signature; a node needs the page and its own stages. The
page holds the digests of all other files, so its own digest is the model's fingerprint: weights,
cut and signature.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import msgspec
import torch

from shardline.core.errors import BlocksOutOfRange, CorruptWeights, PeerFault, StepFailed
from shardline.model.crossing import BLOCKS_MAX
from shardline.model.graph.crossing import StageCrossing, check_values
from shardline.model.graph.cutting import cut_graph
from shardline.model.graph.outlining import outline
from shardline.model.graph.program import RANK_MAX, VALUES_MAX, Name, Size, dtype_of
from shardline.model.graph.saving import (
    PROGRAM,
    SIGNATURE,
    TENSORS,
    VERSION,
    load_signature,
    load_stage,
    read_file,
    save_signature,
    save_stage,
)
from shardline.model.graph.sizes import hint
from shardline.model.graph.stage import Stage
from shardline.model.graph.weighing import value_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from shardline.core.spans import Span
    from shardline.model.crossing import Returned
    from shardline.model.graph.capturing import Graph
    from shardline.model.graph.outlining import StageOutline
    from shardline.model.graph.program import Program
    from shardline.model.graph.signature import Signature, Values

__all__ = [
    "GRAPH_TERMS",
    "GraphPlan",
    "Sample",
    "StageNote",
    "is_graph",
    "open_graph",
    "save_graph",
]

PAGE: Final = "graph.json"
GRAPH_TERMS: Final = "graph"
"""In place of a dtype in records: the stages say themselves what they compute in."""
ELEMENTS_MAX: Final = 2**32
"""Of a value in the example: nothing larger crosses a link."""
_Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Names = Annotated[list[Name], msgspec.Meta(max_length=VALUES_MAX)]
_Module = Annotated[str, msgspec.Meta(pattern=r"\A\w{1,100}\Z")]
_META: Final = torch.device("meta")


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a value was in the example that the module was captured with."""

    dtype: Name
    """A torch dtype; `number` for a Python number."""
    shape: Annotated[list[Size], msgspec.Meta(max_length=RANK_MAX)] = []
    number: bool | int | float = 0

    def __post_init__(self) -> None:
        if math.prod(max(1, size) for size in self.shape) > ELEMENTS_MAX:
            raise ValueError(f"a value of shape {self.shape}")

    def made(self, device: torch.device) -> Any:  # noqa: ANN401 - a tensor or a number
        """One like it, of zeros: also where they are indices they are good ones."""
        if self.dtype == "number":
            return self.number
        return torch.zeros(self.shape, dtype=dtype_of(self.dtype), device=device)


class StageNote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page says of one stage."""

    inputs: _Names
    outputs: _Names
    work_s: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    """At the rates of `weighing`: only shares of it mean much."""
    parameter_bytes: Size
    peak_bytes: Size
    """The most that values take at once in the example."""
    program: _Digest
    """SHA-256 of the stage's `stage.json`."""
    tensors: _Digest
    """And of its `stage.safetensors`."""


class _Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    name: _Module
    signature: _Digest
    results: _Names
    samples: dict[Name, Sample]
    stages: Annotated[list[StageNote], msgspec.Meta(min_length=1, max_length=BLOCKS_MAX)]


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """A cut graph, as its page says; to nodes and callers a stage is a block."""

    folder: Path
    fingerprint: str
    """32 hexadecimal digits; equal for equal weights, cuts and signatures."""
    page: _Page
    alive: tuple[tuple[str, ...], ...]
    """Values that are needed before each stage, and last the results."""

    @property
    def name(self) -> str:
        """The module's class."""
        return self.page.name

    @property
    def stages(self) -> list[StageNote]:
        """What is known of each."""
        return self.page.stages

    @property
    def blocks(self) -> int:
        """How many stages there are."""
        return len(self.page.stages)

    @property
    def terms(self) -> str:
        """What a node says in its record in place of a dtype."""
        return GRAPH_TERMS

    @property
    def step_bytes(self) -> int:
        """The most that goes over a link in the example."""
        return max(
            sum(map(value_bytes, self.example(names, _META).values())) for names in self.alive
        )

    def needs(self, at: int) -> tuple[str, ...]:
        """Names of what this stage and those after it read, and of results that are there already.

        At `blocks` they are the results.
        """
        return self.alive[at]

    def signature(self) -> Signature:
        """How the whole is called; raises NoSuchModel or CorruptWeights."""
        check_digest(self.folder / SIGNATURE, self.page.signature)
        return load_signature(self.folder)

    def crossing(self, given: Mapping[str, Any]) -> StageCrossing:
        """The step to the first stage, of what `Signature.bind` gave."""
        return StageCrossing(0, {name: given[name] for name in self.needs(0)})

    def example(self, names: Iterable[str], device: torch.device) -> Values:
        """Values like the example's, of zeros."""
        return {name: self.page.samples[name].made(device) for name in names}

    def results(self, returned: Returned) -> Values:
        """What the last stage gave, by name; raises PeerFault if it is not what the graph gives."""
        found = returned.output
        if not isinstance(found, dict) or set(cast("Values", found)) != set(
            self.needs(self.blocks)
        ):
            raise PeerFault("a graph's result without what the graph gives, by name")
        values = cast("Values", found)
        check_values(values)
        for name, value in values.items():
            there = value.dtype if isinstance(value, torch.Tensor) else "number"
            if str(there).removeprefix("torch.") != self.page.samples[name].dtype:
                raise PeerFault(f"{name}: {there} came back")
        return values

    def load(self, at: int, device: torch.device) -> Stage:
        """A stage from its folder, which is checked; raises NoSuchModel, CorruptWeights."""
        folder, note = stage_folder(self.folder, at), self.stages[at]
        check_digest(folder / PROGRAM, note.program)
        check_digest(folder / TENSORS, note.tensors)
        stage = load_stage(folder, device)
        ends = (
            [value.name for value in stage.program.inputs],
            [v.name for v in stage.program.outputs],
        )
        if ends != (note.inputs, note.outputs):
            raise CorruptWeights(f"{folder}: a stage with other inputs or outputs than {PAGE} says")
        return stage

    def check(self, span: Span) -> None:
        """Raise BlocksOutOfRange unless these stages are within the graph."""
        if span.stop > self.blocks:
            raise BlocksOutOfRange(f"stages {span} are not within this graph's 0:{self.blocks}")


def stage_folder(folder: Path, at: int) -> Path:
    """Where this stage is."""
    return folder / f"stage-{at}"


def is_graph(folder: Path) -> bool:
    """Whether a cut graph is kept there."""
    return (folder / PAGE).is_file()


def save_graph(graph: Graph, placing: Mapping[int, int], folder: Path) -> GraphPlan:
    """Cut a graph and write its stages, its signature and last its page.

    What was there is overwritten. Raises BadInput for a placing that is none, or a module without
    weights.
    """
    programs, outlines = cut_graph(graph, placing), outline(graph, placing).stages
    (folder / PAGE).unlink(missing_ok=True)  # what is half written is no graph
    notes: list[StageNote] = []
    for at, (program, outlined) in enumerate(zip(programs, outlines, strict=True)):
        save_stage(graph, program, stage_folder(folder, at))
        notes.append(_note(graph, program, outlined, stage_folder(folder, at)))
    save_signature(graph.signature, folder)
    results = [value.name for value in graph.program.outputs]
    named = {name for note in notes for name in (*note.inputs, *note.outputs)}
    samples = {name: _sample(graph.seen[name]) for name in sorted(named)}
    signature = digest_of(folder / SIGNATURE)
    page = _Page(VERSION, graph.signature.name, signature, results, samples, notes)
    (folder / PAGE).write_bytes(msgspec.json.encode(page))
    return open_graph(folder)


def open_graph(folder: Path) -> GraphPlan:
    """What `save_graph` wrote; reads its page only. Raises NoSuchModel or CorruptWeights."""
    page = read_file(folder / PAGE, _Page)
    return GraphPlan(folder, digest_of(folder / PAGE)[:32], page, _alive(page, folder / PAGE))


def digest_of(file: Path) -> str:
    """The SHA-256 of its bytes; raises CorruptWeights if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CorruptWeights(f"{file}: {error.strerror}") from None


def check_digest(file: Path, wanted: str) -> None:
    """Raise CorruptWeights unless the file is the one that the page speaks of."""
    if digest_of(file) != wanted:
        raise CorruptWeights(f"{file} is not the file that {PAGE} speaks of: it was changed")


def _note(graph: Graph, program: Program, outlined: StageOutline, folder: Path) -> StageNote:
    return StageNote(
        inputs=[value.name for value in program.inputs],
        outputs=[value.name for value in program.outputs],
        work_s=outlined.work_s,
        parameter_bytes=outlined.parameter_bytes,
        peak_bytes=_peak_bytes(graph, program),
        program=digest_of(folder / PROGRAM),
        tensors=digest_of(folder / TENSORS),
    )


def _sample(seen: Any) -> Sample:  # noqa: ANN401 - torch's fake tensor or number
    if isinstance(seen, torch.Tensor):
        dtype = str(seen.dtype).removeprefix("torch.")
        return Sample(dtype, [hint(size) for size in seen.shape])
    return Sample("number", number=seen if isinstance(seen, bool | int | float) else hint(seen))


def _peak_bytes(graph: Graph, program: Program) -> int:
    """In the example, on shapes; all that is made, where ops cannot do without values."""
    stage = Stage.of(program, graph.tensors, _META)
    given = {value.name: _sample(graph.seen[value.name]).made(_META) for value in program.inputs}
    try:
        return stage.peak_bytes(given)
    except StepFailed:
        made = [graph.seen[name] for name in (*given, *(op.name for op in program.ops))]
        return sum(map(value_bytes, made))


def _alive(page: _Page, file: Path) -> tuple[tuple[str, ...], ...]:
    """What is needed before each stage; raises CorruptWeights if it cannot be there."""
    made_by: dict[str, int] = {}
    for at, note in enumerate(page.stages):
        early = [name for name in note.inputs if name in note.outputs]
        twice = [name for name in note.outputs if made_by.setdefault(name, at) != at]
        unknown = [name for name in (*note.inputs, *note.outputs) if name not in page.samples]
        if early or twice or unknown:
            raise CorruptWeights(f"{file}: {(early + twice + unknown)[0]!r} of stage {at}")
    wanted = dict.fromkeys(page.results)
    alive = [tuple(sorted(wanted))]
    for at in range(len(page.stages) - 1, -1, -1):
        note = page.stages[at]
        wanted = {name: None for name in wanted if made_by.get(name) != at}
        wanted |= dict.fromkeys(note.inputs)
        alive.append(tuple(sorted(wanted)))
    if any(name in made_by for name in wanted) or not set(page.results) <= set(made_by):
        raise CorruptWeights(f"{file}: a stage or the caller would wait for what is not made")
    return tuple(alive[::-1])
