"""The digits and the networks that are trained on them; what a run reads in pictures."""

from __future__ import annotations

from typing import Any, cast

import torch

from evals.vision import HELD_OUT, Digits, SmallCnn, ask, read_digits, small_vit, train


def test_no_picture_is_both_learned_and_asked() -> None:
    learn, held_out = read_digits()
    assert len(held_out.labels) == HELD_OUT
    assert len(learn.labels) + HELD_OUT == 1_797
    assert learn.pictures.shape[1:] == (1, 8, 8)
    assert not bytes_of(learn) & bytes_of(held_out)


def bytes_of(digits: Digits) -> set[bytes]:
    """Each picture."""
    return {picture.tobytes() for picture in digits.pictures.numpy()}


def test_a_little_training_reads_most_digits_and_is_a_function_of_its_seed() -> None:
    learn, held_out = read_digits()
    few = held_out.part(0, 200)

    def trained() -> SmallCnn:
        cast("Any", torch).manual_seed(0)
        network = SmallCnn()
        train(network, learn, 4)
        return network

    found = ask(few, trained())
    assert found.n == 200
    assert found.score > 0.6
    assert ask(few, trained()) == found


def test_a_vit_is_asked_by_its_logits() -> None:
    pictures = torch.zeros(3, 1, 8, 8)
    vit = small_vit().eval()
    with torch.no_grad():
        said = vit(pixel_values=pictures).logits.argmax(-1)
    found = ask(Digits(pictures, said), vit)
    assert found.right == (True, True, True)
    assert found.answers == tuple(map(str, said.tolist()))
