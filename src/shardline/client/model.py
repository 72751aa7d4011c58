"""A model whose blocks are on the swarm: Transformers' own `generate`, forward and arguments."""

from __future__ import annotations

import contextlib
import queue
import statistics
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from shardline.client.batches import batch_of, join, on_nodes, parts_of, split
from shardline.client.times import Passed
from shardline.core.errors import PromptTooLong, Unsupported
from shardline.model import adopt_threads

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from transformers import PreTrainedModel

    from shardline.client.prefixes import Naming, Prefix
    from shardline.client.runner import Runner
    from shardline.client.times import StepTimes
    from shardline.model import ChainPlan
    from shardline.swarm import Hop

__all__ = ["Generation", "SwarmModel"]

FEW_NODES = 2
"""Taken for granted of a chain that no step has gone through yet."""
TEXT_RANK = 2
"""Of token ids: (batch, tokens)."""
SPEECH_BEGINS = 4
"""Tokens that a decoder of speech begins with: start, language, task, no timestamps."""
NEW_TOKENS = 20
"""What Transformers' `generate` writes when nobody says how much."""


@dataclass(frozen=True, slots=True)
class Generation:
    """How the last `generate` or `stream` went."""

    chain: tuple[Hop, ...]
    steps: tuple[StepTimes, ...]
    time_to_first_token_s: float
    tokens_per_s: float
    """Of one sequence, after its first token."""
    standbys: tuple[Hop, ...] = ()
    """The seats that were kept warm beside the chain."""
    reading: tuple[Hop, ...] = ()
    """Of an encoder's blocks, where the model writes from what one read."""

    @property
    def moved_bytes(self) -> int:
        """Bytes of tensors that crossed any link of the chain."""
        return sum(step.moved_bytes for step in self.steps)

    @property
    def shared_tokens(self) -> int:
        """Tokens of the prompt that the nodes held already."""
        return sum(step.shared_tokens for step in self.steps)

    @property
    def saved_bytes(self) -> int:
        """What they would be more if all had crossed raw."""
        return sum(step.saved_bytes for step in self.steps)

    @property
    def wires(self) -> tuple[str, ...]:
        """The codec of the hidden states on each link of the chain, at the last step."""
        return self.steps[-1].wires if self.steps else ()

    @property
    def hop_overhead_ms(self) -> float:
        """Median time per link, over single-token steps, in which no node computed."""
        return statistics.median(step.overhead_ms for step in self._decode)

    @property
    def nodes_ms(self) -> tuple[float, ...]:
        """Median time that each node of the chain computed for a single-token step."""
        times = zip(*(step.nodes_s for step in self._decode), strict=True)
        return tuple(1e3 * statistics.median(node_s) for node_s in times)

    @property
    def _decode(self) -> tuple[StepTimes, ...]:
        """Steps of single tokens through the whole chain, none of it replayed."""
        whole = [step for step in self.steps if len(step.nodes_s) == len(self.chain)]
        return tuple(whole[1:] or whole)


class _Stopwatch(BaseStreamer):
    """Notes when tokens come, and passes them on if somebody listens."""

    def __init__(self, out: queue.SimpleQueue[list[int] | None] | None = None) -> None:
        self.at_s: list[float] = []
        self._out = out
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Transformers gives the prompt first, then each step's tokens of all sequences."""
        if self._prompt:
            self._prompt = False
            return
        self.at_s.append(time.perf_counter())
        if self._out is not None:
            self._out.put(cast("list[int]", cast("Any", value).reshape(-1).tolist()))

    def end(self) -> None:
        """Transformers has finished."""


class _Stop(StoppingCriteria):
    """Ends a generation whose listener has gone."""

    def __init__(self, gone: threading.Event) -> None:
        self._gone = gone

    def __call__(
        self, input_ids: torch.LongTensor, scores: tuple[torch.Tensor] | None, **_: Any
    ) -> torch.BoolTensor:
        return cast("torch.BoolTensor", torch.full((len(input_ids),), self._gone.is_set()))


class SwarmModel:
    """One model over the swarm. Not for several threads at once; open one for each."""

    def __init__(
        self,
        ends: PreTrainedModel,
        plan: ChainPlan,
        runner: Runner,
        naming: Naming | None = None,
    ) -> None:
        self._ends = ends
        self._naming = naming
        """How prompts are named to the nodes, so that they keep and find what they begin with."""
        self._runner = runner
        self.plan = plan
        self.last: Generation | None = None
        """How the last generation went."""
        self.passed: Passed | None = None
        """How the last plain call went."""
        self.part_rows: int | None = None
        """The most rows of a plain call that travel together; None leaves it to `batches`."""
        self._apart = True
        """Whether a call's outputs can be put together from those of parts of its batch."""

    @property
    def chain(self) -> tuple[Hop, ...]:
        """The nodes that the last step went through."""
        return self._runner.chain

    @property
    def standbys(self) -> tuple[Hop, ...]:
        """The seats that were warm beside the chain at the last step."""
        return self._runner.standbys

    @property
    def listens(self) -> bool:
        """Whether it is given sounds instead of text."""
        return self.plan.crosses and self._ends.main_input_name != "input_ids"

    @property
    def dtype(self) -> torch.dtype:
        """Of the part that this side computes: embeddings, norm and head."""
        return self._ends.dtype

    def __call__(self, input_ids: torch.Tensor | None = None, **inputs: Any) -> Any:  # noqa: ANN401  (the model's own output)
        """The model's own forward: `input_ids` (batch, tokens), or what else it takes by name.

        A batch goes in several parts, so that all nodes work, unless a cache is kept or outputs do
        not follow it.
        """
        if input_ids is not None:
            inputs["input_ids"] = input_ids
        if self.plan.caches:
            inputs.setdefault("use_cache", "past_key_values" in inputs)
        started_s = time.perf_counter()
        self._runner.steps.clear()
        output, rows = self._in_parts(inputs)
        chains = self._runner.chains
        hops = tuple(hop for start in sorted(chains) for hop in chains[start])
        steps, wall_s = tuple(self._runner.steps), time.perf_counter() - started_s
        self.passed = Passed(hops, steps, rows, wall_s)
        return output

    def _in_parts(self, inputs: dict[str, Any]) -> tuple[Any, tuple[int, ...]]:
        """What the model returns for these inputs, and the rows of each part."""
        nodes = len(self._runner.chain) or FEW_NODES
        rows = batch_of(((), inputs))
        sizes = parts_of(rows, nodes, self.part_rows)
        if len(sizes) > 1 and self._apart and not inputs.get("use_cache"):
            parts = [part for _, part in split(((), inputs), sizes)]
            whole = join(on_nodes(self._forward, parts, nodes), sizes)
            if whole is not None:
                return whole, sizes
            self._apart = False
        return self._forward(inputs), (rows,)

    def _forward(self, inputs: dict[str, Any]) -> Any:  # noqa: ANN401  (as above)
        with torch.no_grad():
            return self._ends(**inputs)

    def generate(self, input_ids: torch.Tensor, **options: Any) -> Any:  # noqa: ANN401  (as Transformers')
        """Transformers' `generate` with its own arguments, on `input_ids` (batch, tokens).

        Of a model that listens, the first argument is its features of sounds, (batch, ...).
        Raises PromptTooLong when no token fits after the prompt, ChainBroken when a node fails.
        """
        watch = _Stopwatch()
        return self._generate(input_ids, watch, options)

    def stream(self, input_ids: torch.Tensor, **options: Any) -> Iterator[int]:
        """As `generate` for one sequence, (1, tokens), giving each new token's id as it comes."""
        tokens: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
        gone = threading.Event()
        failure: list[BaseException] = []

        def work() -> None:
            try:
                adopt_threads()
                stops = StoppingCriteriaList([_Stop(gone), *options.pop("stopping_criteria", [])])
                self._generate(
                    input_ids, _Stopwatch(tokens), options | {"stopping_criteria": stops}
                )
            except BaseException as error:  # noqa: BLE001  (a task's supervisor: raised below)
                failure.append(error)
            finally:
                tokens.put(None)

        thread = threading.Thread(target=work, name="shardline-stream", daemon=True)
        thread.start()
        try:
            while (fresh := tokens.get()) is not None:
                yield from fresh
        finally:
            gone.set()
            thread.join()
        if failure:
            raise failure[0]

    @contextlib.contextmanager
    def lend(self, tokens: int) -> Generator[Runner]:
        """The way to its blocks, for ends of the borrower's own; any threads may use it at once.

        Each cache that is given to it names a session, which may hold `tokens` tokens, until the
        borrower ends it; all of them are closed in the end. This model must not be used meanwhile.
        """
        self._runner.tokens = tokens
        try:
            yield self._runner
        finally:
            self._runner.forget()

    def _generate(self, input_ids: torch.Tensor, watch: _Stopwatch, options: dict[str, Any]) -> Any:  # noqa: ANN401
        if not self.plan.caches:
            raise Unsupported(f"{self.plan.architecture} writes no text: call it instead")
        kept = options.get("past_key_values")
        room = self._room(input_ids, options)
        # A cache that its owner keeps will be gone on with: reserve the whole context for it.
        self._runner.tokens = room if kept is None else self.plan.context_tokens or 4 * room
        self._runner.steps.clear()
        self._runner.prefix = self._prefix(input_ids, options)
        started_s = time.perf_counter()
        try:
            return cast("Any", self._ends).generate(input_ids, streamer=watch, **options)
        finally:
            self._note(started_s, watch.at_s)
            self._runner.prefix = None
            self._runner.forget(kept)

    def _prefix(self, input_ids: torch.Tensor, options: dict[str, Any]) -> Prefix | None:
        """The names of a prompt that is one sequence of tokens and nothing else."""
        given = {name for name, value in options.items() if isinstance(value, torch.Tensor)}
        mask = options.get("attention_mask")
        padded = mask is not None and not bool(mask.all())
        plain = len(input_ids) == 1 and not padded and not given - {"attention_mask"}
        if self._naming is None or self.plan.crosses or not plain:
            return None
        return self._naming.prefix(cast("list[int]", cast("Any", input_ids)[0].tolist()))

    def _room(self, input_ids: torch.Tensor, options: dict[str, Any]) -> int:
        """How many tokens the session will hold; lowers what was asked to the context's end."""
        prompt, listens = input_ids.shape[-1], input_ids.dim() != TEXT_RANK
        context = self.plan.context_tokens
        if context is not None and prompt >= context and not listens:
            raise PromptTooLong(f"the prompt is {prompt} tokens, the model's context {context}")
        settings: Any = self._ends.generation_config
        default = settings.max_new_tokens or NEW_TOKENS
        if self.plan.crosses:  # the prompt was the encoder's; its decoder begins with its own
            begun = options.get("decoder_input_ids")
            prompt = begun.shape[-1] if begun is not None else SPEECH_BEGINS if listens else 1
            default = settings.max_new_tokens or (settings.max_length or 0) - prompt
            default = default if default > 0 else NEW_TOKENS
        wanted: int
        if "max_length" in options and "max_new_tokens" not in options:
            wanted = max(options.pop("max_length") - prompt, 1)
        else:
            wanted = options.get("max_new_tokens") or default
        options["max_new_tokens"] = min(wanted, context - prompt) if context else wanted
        return prompt + options["max_new_tokens"]

    def _note(self, started_s: float, at_s: list[float]) -> None:
        if not at_s:
            return
        writing_s = at_s[-1] - at_s[0]
        self.last = Generation(
            chain=self._runner.chain,
            reading=self._runner.chains.get(0, ()) if self.plan.crosses else (),
            standbys=self._runner.standbys,
            steps=tuple(self._runner.steps),
            time_to_first_token_s=at_s[0] - started_s,
            tokens_per_s=(len(at_s) - 1) / writing_s if writing_s > 0 else 0.0,
        )
