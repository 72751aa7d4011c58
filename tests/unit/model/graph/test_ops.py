from __future__ import annotations

import pytest
import torch

from shardline.core.errors import Unsupported
from shardline.model.graph.ops import ATEN, NUMBERS, check_pure, overload, run_of


def test_each_op_of_the_list_is_there_and_pure() -> None:
    for name in ATEN:
        packet = getattr(torch.ops.aten, name)
        overloads = [getattr(packet, which) for which in packet.overloads()]
        pure = [one for one in overloads if not one._schema.is_mutable]  # noqa: SLF001
        assert pure, name
        for one in pure:
            arguments = {argument.name: str(argument.type) for argument in one._schema.arguments}  # noqa: SLF001
            assert "filename" not in arguments, name
            assert not any("Generator" in kind for kind in arguments.values()), name
            if torch.Tag.nondeterministic_seeded in one.tags:
                assert {"train", "dropout_p"} & set(arguments), name


def test_what_draws_random_numbers_or_keeps_statistics_is_refused() -> None:
    x = torch.ones(1, 1, 2, 2)
    attention = "aten.scaled_dot_product_attention.default"
    check_pure(attention, (x, x, x), {})
    check_pure(attention, (x, x, x, None, 0.0), {})
    with pytest.raises(Unsupported, match="random"):
        check_pure(attention, (x, x, x, None, 0.1), {})
    with pytest.raises(Unsupported, match="random"):
        check_pure(attention, (x, x, x), {"dropout_p": 0.1})
    with pytest.raises(Unsupported, match="random"):
        check_pure("aten.lstm.input", (x, [x], [x], True, 1, 0.0, True, False, True), {})
    mean = torch.zeros(1)
    norm = "aten.batch_norm.default"
    check_pure(norm, (x, None, None, mean, mean, False, 0.1, 1e-5, False), {})
    with pytest.raises(Unsupported, match="running mean"):
        check_pure(norm, (x, None, None, mean, mean, True, 0.1, 1e-5, False), {})


def test_numbers_stay_within_64_bits_and_nothing_else_is_computed() -> None:
    assert run_of("size.mul")(2**31, 2**31) == 2**62
    with pytest.raises(OverflowError):
        run_of("size.mul")(2**32, 2**31)
    for text in ("ab", ["ab"]):
        with pytest.raises(TypeError):
            run_of("size.mul")(text, 2**40)
    assert all(callable(run_of(f"size.{name}")) for name in NUMBERS)


def test_only_overloads_that_change_nothing_are_given() -> None:
    assert overload("aten.add.Tensor") is torch.ops.aten.add.Tensor
    with pytest.raises(Unsupported, match="changes its inputs"):
        overload("aten.add.out")
