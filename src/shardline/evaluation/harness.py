"""A weighed model as a language model of lm-evaluation-harness; imported with the extra `eval`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from shardline.evaluation.measures import Shares

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shardline.evaluation.weighing import Weigher

__all__ = ["HarnessModel", "ask"]

METRICS = ("acc_norm", "acc", "exact_match")
"""Of the first that a task has: HellaSwag by `acc_norm`, LAMBADA by `acc`."""
FOLDERS = ("hellaswag", "lambada", "leaderboard/bbh_mc")
NEW_TOKENS = 256

_datasets = cast("Any", importlib.import_module("datasets"))
_evaluator = cast("Any", importlib.import_module("lm_eval.evaluator"))
_tasks = cast("Any", importlib.import_module("lm_eval.tasks"))
_LM: Any = cast("Any", importlib.import_module("lm_eval.api.model")).LM


class HarnessModel(_LM):
    """What any task of the harness may ask, of a model over a swarm or in one process."""

    def __init__(self, model: Weigher) -> None:
        _LM.__init__(self)
        self._model = model

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Of each request's second text after its first; and whether greedy would write it."""
        weights = self._model.weigh([request.args for request in requests])
        return [(one.likelihood, one.greedy) for one in weights]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Of whole texts."""
        texts = [self._model.windows(request.args[0]) for request in requests]
        weights = iter(self._model.weigh_ids([row for rows in texts for row in rows]))
        return [sum(next(weights).likelihood for _ in rows) for rows in texts]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """What greedy decoding writes after each prompt, up to the first stop."""
        return [self._write(*request.args) for request in requests]

    def _write(self, prompt: str, asked: dict[str, Any]) -> str:
        tokens, room = self._model.tokens, asked.get("max_gen_toks", NEW_TOKENS)
        ids = tokens.encode(prompt)[-max(1, self._model.context_tokens - room) :]
        model: Any = self._model.model
        out = model.generate(torch.tensor([ids]), max_new_tokens=room, do_sample=False)
        text = tokens.decode(out[0, len(ids) :].tolist(), skip_special_tokens=True)
        until = asked.get("until", [])
        for stop in [until] if isinstance(until, str) else until:
            text = text.partition(stop)[0] if stop else text
        return text


def ask(model: Weigher, parts: Iterable[tuple[str, str, list[dict[str, Any]]]]) -> Shares:
    """All parts' documents, by the harness's task of each name, in its split."""
    answers: list[str] = []
    right: list[bool] = []
    for name, split, documents in parts:
        for sample in _samples(model, name, split, documents):
            metric = next(name for name in METRICS if name in sample)
            answers.append(_answer(sample, by_length=metric == "acc_norm"))
            right.append(bool(sample[metric]))
    return Shares(tuple(answers), tuple(right))


def _samples(
    model: Weigher, name: str, split: str, documents: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What the harness notes of each document, in their order."""
    _datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)

    def own_data(**_: object) -> dict[str, Any]:
        return {split: _datasets.Dataset.from_list(documents)}

    task: dict[str, Any] = {"task": name, "dataset_path": "", "custom_dataset": own_data}
    task["training_split"] = None
    group = {"group": "shardline", "task": [task]}  # only what is in a group may be overridden
    loaded = _manager().load([group])
    for one in loaded["tasks"].values():
        one.set_config("num_fewshot", one.get_config("num_fewshot") or 0)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars cannot be turned off
        found = _evaluator.evaluate(HarnessModel(model), loaded, bootstrap_iters=0)
    (samples,) = found["samples"].values()
    return sorted(samples, key=lambda sample: sample["doc_id"])


@functools.cache
def _manager() -> Any:  # noqa: ANN401  (the harness's own)
    """The harness's tasks, of thousands those that are asked here."""
    folder = Path(_tasks.__file__).parent
    return _tasks.TaskManager(
        include_defaults=False, include_path=[folder / name for name in FOLDERS]
    )


def _answer(sample: dict[str, Any], *, by_length: bool) -> str:
    """Of options the likeliest; of one, whether greedy decoding writes it."""
    responses: list[tuple[float, bool]] = [one for (one,) in sample["resps"]]
    options: list[str] = [option for _, option in sample["arguments"]]
    if len(options) == 1:
        return str(responses[0][1])
    sizes = [len(option) - 1 if by_length else 1 for option in options]  # the space is not its own
    shares = [likelihood / size for (likelihood, _), size in zip(responses, sizes, strict=True)]
    return options[shares.index(max(shares))]
