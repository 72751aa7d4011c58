"""Training's moving parts without training: packing, padding, the schedule, one tiny step."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from evals.fable.lessons import LESSONS
from evals.fable.reading import PAD, batches_of, padded, steps
from evals.fable.tokens import ANSWER_BIT, CONTEXT_TOKENS, GIVEN_BIT, pack
from evals.fable.train import Settings, deepened, loss_sums, rate_share, start_model

TOKENIZER = Path(__file__).parents[3] / "models" / "fable-2m" / "tokenizer.json"


def test_a_stream_is_a_function_of_its_seed_and_marks_some_answers() -> None:
    first, again, other = (pack(str(TOKENIZER), seed, 3000) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:3000], other[:3000])
    share = float((first >= ANSWER_BIT).mean())
    assert 0.01 < share < 0.15
    assert first[0] == 0
    assert first[-1] == 1


def test_rows_are_padded_to_the_right() -> None:
    table = padded([np.array([0, 5], np.uint16), np.array([0, 5, 6, 1], np.uint16)])
    assert torch.equal(table, torch.tensor([[0, 5, PAD, PAD], [0, 5, 6, 1]]))


def test_the_rate_rises_holds_and_falls_to_nothing() -> None:
    shares = [rate_share(progress, 0.1, 0.5) for progress in (0.0, 0.05, 0.3, 0.75, 1.0)]
    assert shares == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


def test_padding_adds_nothing_to_the_loss_and_answers_weigh_more() -> None:
    settings = Settings(work="", out="", layers=1, hidden=64)
    model = start_model(settings, torch.device("cpu"))
    row = torch.tensor([[0, 7, 8 | int(ANSWER_BIT), 9, 1]])
    longer = torch.cat([row, torch.full((1, 3), PAD)], dim=1)
    short_sum, short_told = loss_sums(model, row, 4.0)
    long_sum, long_told = loss_sums(model, longer, 4.0)
    plain_sum, _ = loss_sums(model, row, 1.0)
    assert torch.allclose(short_sum, long_sum, atol=1e-4)
    assert torch.allclose(short_told, long_told, atol=1e-4)
    assert short_sum > plain_sum
    assert short_told[1] == 4
    assert short_told[3] == 1


def test_what_is_given_is_not_learned_unless_it_answers() -> None:
    settings = Settings(work="", out="", layers=1, hidden=64)
    model = start_model(settings, torch.device("cpu"))
    given, answer = int(GIVEN_BIT), int(ANSWER_BIT)
    row = torch.tensor([[0, 7 | given, 8 | answer, 9 | given, 1 | given]])
    learned, told = loss_sums(model, row, 1.0)
    assert torch.allclose(learned, told[2])
    assert told[0] > told[2]
    assert (told[1], told[3]) == (4, 1)


def test_lessons_mark_all_but_their_answers_as_given(tmp_path: Path) -> None:
    settings = Settings(work=str(tmp_path), out="")
    for lesson, taught in enumerate(LESSONS):
        stream = pack(str(TOKENIZER), lesson, 2000, taught.mix)
        assert ((stream >= ANSWER_BIT) ^ (stream & GIVEN_BIT > 0) | (stream < 2)).all()
        (tmp_path / "shards").mkdir(exist_ok=True)
        np.save(tmp_path / "shards" / f"shard-{1000 + lesson:05d}.npy", stream)
        read = sum(
            int((batch & (int(GIVEN_BIT) - 1) != PAD).sum())
            for batches in steps(settings, TOKENIZER, lesson)
            for batch in batches
        )
        assert read == len(stream)
    assert [taught.layers for taught in LESSONS] == sorted(taught.layers for taught in LESSONS)


def test_every_row_is_in_one_batch_beside_rows_of_like_length() -> None:
    rows = [np.zeros(length, np.uint16) for length in range(1, 60)]
    batches = list(batches_of(rows, 200))
    assert [len(row) for batch in batches for row in batch] == list(range(1, 60))
    assert all(len(batch) * len(batch[-1]) <= 200 for batch in batches)
    assert all(
        (len(batch) + 1) * len(following[0]) > 200
        for batch, following in itertools.pairwise(batches)
    )


def test_a_model_computes_the_same_when_layers_are_added() -> None:
    settings = Settings(work="", out="", layers=2, hidden=64)
    shallow = start_model(settings, torch.device("cpu"))
    deep = deepened(shallow, settings, 5)
    ids = torch.randint(3, 100, (2, 12))
    assert (shallow.config.num_hidden_layers, deep.config.num_hidden_layers) == (2, 5)
    assert torch.equal(deep(ids).logits, shallow(ids).logits)


def test_steps_hold_about_the_tokens_asked_for_and_fit_the_context(tmp_path: Path) -> None:
    stream = pack(str(TOKENIZER), 1, 20_000)
    (tmp_path / "shards").mkdir()
    mix = len(LESSONS)
    for seed in range(1000 + mix, 1003 + mix):
        np.save(tmp_path / "shards" / f"shard-{seed:05d}.npy", stream)
    settings = Settings(work=str(tmp_path), out="", step_tokens=2000, session_share=0.5)
    for batches in itertools.islice(steps(settings, TOKENIZER, mix), 9):
        assert 1 <= len(batches) <= settings.micro_batches
        for batch in batches:
            assert batch.shape[1] <= CONTEXT_TOKENS
            assert batch.numel() <= 1000
            padding = float((batch & (int(ANSWER_BIT) - 1) == PAD).float().mean())
            assert padding < 0.5
    assert json.loads(TOKENIZER.read_text())["model"]["type"] == "BPE"
