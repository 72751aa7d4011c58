"""Text into batches: shards made ahead, rows of like length, padding to the right."""

from __future__ import annotations

import itertools
import random
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer

from evals.fable.documents import MIX
from evals.fable.lessons import LESSONS
from evals.fable.tokens import CONTEXT_TOKENS, pack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from evals.fable.train import Settings

__all__ = ["PAD", "batches_of", "padded", "steps"]

SHARD_TOKENS = 1_000_000
POOL_STEPS = 16
BEGIN, PAD = 0, 2


def make_shard(tokenizer_file: str, folder: str, seed: int, lesson: int) -> str:
    """Write the shard of `seed` unless it is there: a whole lesson, or a piece of the mix.

    Returns its path.
    """
    path = Path(folder) / f"shard-{seed:05d}.npy"
    if not path.exists():
        taught = LESSONS[lesson : lesson + 1]
        mix, tokens = (taught[0].mix, taught[0].tokens) if taught else (MIX, SHARD_TOKENS)
        stream = pack(tokenizer_file, seed, tokens, mix)
        unfinished = path.with_suffix(".tmp.npy")
        np.save(unfinished, stream)
        unfinished.rename(path)
    return str(path)


def streams(settings: Settings, tokenizer_file: Path, lesson: int) -> Iterator[NDArray[np.uint16]]:
    """A lesson's text; or, after the lessons, shards of the mix without end, made ahead."""
    folder = Path(settings.work) / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    paths = str(tokenizer_file), str(folder)
    first = 1_000 * (settings.seed + 1)
    if lesson < len(LESSONS):
        yield load_shard(make_shard(*paths, first + lesson, lesson))
        return
    with ProcessPoolExecutor(settings.workers, mp_context=get_context("spawn")) as pool:
        ahead = deque[Future[str]]()
        for index in itertools.count(lesson + settings.first_shard):
            ahead.append(pool.submit(make_shard, *paths, first + index, lesson))
            if len(ahead) > settings.workers:
                yield load_shard(ahead.popleft().result())


def load_shard(path: str) -> NDArray[np.uint16]:
    """Marked ids, one document after another."""
    return np.load(path, allow_pickle=False)


def steps(settings: Settings, tokenizer_file: Path, lesson: int) -> Iterator[list[torch.Tensor]]:
    """The micro-batches of every step: (rows, longest) marked ids, short rows with short ones.

    A row is one document, so that nothing before it disturbs; padding stands to the right, where
    causal attention needs no mask. Of the mix some rows are several documents, as in a chat. Rows
    are sorted by length over many steps, so that next to nothing is padding.
    """
    rng = random.Random(f"steps/{settings.seed}/{lesson}/{settings.first_shard}")  # noqa: S311
    documents = (
        document
        for stream in streams(settings, tokenizer_file, lesson)
        for document in np.split(stream, np.flatnonzero(stream == BEGIN)[1:])
    )
    teaches = lesson < len(LESSONS)
    share = 0.0 if teaches else settings.session_share
    newline = Tokenizer.from_file(str(tokenizer_file)).encode("\n", add_special_tokens=False).ids
    step_tokens = settings.lesson_tokens if teaches else settings.step_tokens
    while pool := pool_of(documents, POOL_STEPS * step_tokens, share, newline, rng):
        pool.sort(key=len)
        batches = [padded(rows) for rows in batches_of(pool, step_tokens // settings.micro_batches)]
        rng.shuffle(batches)
        for start in range(0, len(batches), settings.micro_batches):
            yield batches[start : start + settings.micro_batches]


def pool_of(
    documents: Iterator[NDArray[np.uint16]],
    tokens: int,
    session_share: float,
    newline: list[int],
    rng: random.Random,
) -> list[NDArray[np.uint16]]:
    """Rows of about so many tokens; fewer at the end of a lesson, none after it."""
    pool: list[NDArray[np.uint16]] = []
    missing = tokens
    for document in documents:
        row = document
        more = rng.randrange(1, 4) if rng.random() < session_share else 0
        for further in itertools.islice(documents, more):
            row = np.concatenate([row[:-1], newline, further[1:]])
        pool.append(row[:CONTEXT_TOKENS].astype(np.uint16))
        missing -= len(pool[-1])
        if missing <= 0:
            break
    return pool


def batches_of(
    rows: list[NDArray[np.uint16]], batch_tokens: int
) -> Iterator[list[NDArray[np.uint16]]]:
    """Rows sorted by length, cut into runs that fill at most `batch_tokens` tokens, padding too."""
    run: list[NDArray[np.uint16]] = []
    for row in rows:
        if run and (len(run) + 1) * len(row) > batch_tokens:
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def padded(rows: list[NDArray[np.uint16]]) -> torch.Tensor:
    """Rows of unequal length as one (rows, longest) tensor, padded to the right."""
    table = np.full((len(rows), max(len(row) for row in rows)), PAD, dtype=np.int64)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return torch.tensor(table)
