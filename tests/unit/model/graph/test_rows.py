"""Whether rows of a batch are treated apart, and where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch
from torch import nn

from shardline.core.errors import BadInput, CorruptWeights, PeerFault
from shardline.model.graph import (
    Graph,
    capture,
    load_signature,
    run_stages,
    save_signature,
    with_rows,
)
from shardline.model.graph.signature import Expression
from shardline.model.graph.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Tensor = torch.Tensor
LUCK = torch.Generator().manual_seed(1)


class Calls(nn.Module):
    """A module whose forward is a function."""

    def __init__(self, does: Callable[..., Any]) -> None:
        super().__init__()
        self.does = does
        self.layer = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Any:
        return self.does(self, self.layer(x))


APART: dict[str, Callable[[Any, Tensor], Any]] = {
    "a layer": lambda _, x: x,
    "a norm with the batches that it was trained on": lambda m, x: m.norm(x),
    "attention within a row": lambda _, x: (
        torch.softmax(x[:, :, None] * x[:, None], -1) @ x[..., None]
    ),
    "a mean of the weights": lambda m, x: x * m.layer.weight.mean(),
}
MIXED: dict[str, Callable[[Any, Tensor], Any]] = {
    "a mean over the batch": lambda _, x: x - x.mean(0),
    "softmax over the batch": lambda _, x: x.softmax(0),
    "all pairs": lambda _, x: x @ x.T,
    "a loss": lambda _, x: (x, x.square().mean()),
    "the other way round": lambda _, x: x.flip(0),
    "sorted rows": lambda _, x: x.sort(0).values,
    "whether any is large": lambda _, x: torch.where((x > 100).any(), x + 1, x),
    "the number of rows": lambda _, x: x / len(x),
    "rows that are told": lambda _, x: (x, len(x)),
    "some of the values": lambda _, x: x[x > 0],
    "numbered rows": lambda _, x: x + torch.arange(len(x))[:, None],
    "no number": lambda _, x: x / 0 - x / 0,
}


def along_the_first(_: Any, x: Tensor) -> Any:
    return x.cumsum(0), x.sum(0)


def large_batches_only(_: Any, x: Tensor) -> Any:
    return x.tanh() if len(x) > 2 else x


def found(does: Callable[..., Any], *shape: int) -> Graph:
    module, x = Calls(does).eval(), torch.randn(*shape, generator=LUCK)
    return with_rows(capture(module, (x,)), (x,), {})


@pytest.mark.parametrize("name", APART)
def test_rows_that_are_treated_apart_are_found(name: str) -> None:
    graph = found(APART[name], 3, 6)
    assert graph.signature.rows["x"] == 0
    assert set(graph.signature.rows.values()) == {0}
    assert len(graph.signature.rows) == 2


@pytest.mark.parametrize("name", MIXED)
def test_rows_that_have_to_do_with_each_other_are_run_whole(name: str) -> None:
    assert found(MIXED[name], 3, 6).signature.rows == {}


def test_the_batch_may_come_second() -> None:
    graph = found(along_the_first, 4, 3, 6)
    assert graph.signature.rows["x"] == 1
    assert sorted(graph.signature.rows.values()) == [0, 1, 1]


def test_a_captured_size_that_is_fixed_is_run_whole() -> None:
    module, x = Calls(APART["a layer"]).eval(), torch.ones(3, 6)
    graph = capture(module, (x,), dynamic=False)
    assert with_rows(graph, (x,), {}).signature.rows == {}


def test_several_inputs_are_split_together_and_joined_again(graph: Graph, tmp_path: Path) -> None:
    words, image = torch.arange(10).reshape(2, 5), torch.randn(2, 16, generator=LUCK)
    graph = with_rows(graph, (words,), {"image": image})
    save_signature(graph.signature, tmp_path)
    signature = load_signature(tmp_path)
    assert {signature.rows["words"], signature.rows["image"]} == {0}
    words, image = torch.arange(15).reshape(3, 5), torch.randn(3, 16, generator=LUCK)
    given = signature.bind(words, image=image)
    assert signature.batch(given) == 3
    stage = [Stage.of(graph.program, graph.tensors, torch.device("cpu"))]
    whole = signature.rebuild(run_stages(stage, given))
    parts = [run_stages(stage, signature.part(given, *at)) for at in ((0, 1), (1, 3))]
    again = signature.rebuild(signature.joined(parts))
    for name, tensor in whole.items():
        assert torch.allclose(again[name], tensor, atol=1e-6)


class Masked(nn.Module):
    """As Transformers looks its masks up: nothing says that they have as many rows as the words."""

    def __init__(self, *, mixed: bool) -> None:
        super().__init__()
        self.mixed = mixed

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        rows = torch.arange(words.shape[0])[:, None]
        seen = mask[rows, torch.arange(words.shape[1])]
        return words.softmax(1) * (seen.flip(0) if self.mixed else seen)


def masked(*, mixed: bool) -> Graph:
    given = torch.arange(12.0).reshape(3, 4), torch.arange(12).reshape(3, 4) % 5
    return with_rows(capture(Masked(mixed=mixed), given), given, {})


def test_rows_of_inputs_whose_sizes_have_nothing_to_do_with_each_other_are_split_together() -> None:
    signature = masked(mixed=False).signature
    assert {"words.0", "mask.0"} <= set(signature.sizes())
    assert not any("mask.0" in str(rule) for rule in signature.rules)
    assert (signature.rows["words"], signature.rows["mask"]) == (0, 0)
    words, mask = torch.ones(6, 4), torch.ones(6, 4).long()
    assert signature.batch(signature.bind(words, mask)) == 6
    assert signature.batch(signature.bind(words, torch.ones(7, 4).long())) == 1, "it stays whole"


def test_a_mask_of_other_rows_is_run_whole() -> None:
    assert masked(mixed=True).signature.rows == {}


def test_parts_that_the_capture_forbids_are_refused() -> None:
    graph = found(large_batches_only, 4, 6)
    assert graph.signature.rows == {}, "five rows cannot be tried in two and three"
    rule = Expression("GreaterThan", ["x.0", 3])
    signature = msgspec.structs.replace(found(APART["a layer"], 4, 6).signature, rules=[rule])
    given = signature.bind(torch.ones(5, 6))
    assert signature.part(given, 1, 5)["x.0"] == 4
    with pytest.raises(BadInput, match=r"captured for sizes with x\.0 >= 3"):
        signature.part(given, 0, 2)


def test_parts_of_odd_shapes_are_a_peers_fault() -> None:
    graph = found(APART["a layer"], 4, 6)
    (out,) = set(graph.signature.rows) - {"x"}
    with pytest.raises(PeerFault, match="do not fit"):
        graph.signature.joined([{out: torch.ones(2, 6)}, {out: torch.ones(2, 5)}])


def test_a_file_that_names_rows_of_a_fixed_size_is_refused(graph: Graph, tmp_path: Path) -> None:
    save_signature(graph.signature, tmp_path)
    file = tmp_path / "signature.json"
    for rows in ('{"image":1}', '{"image":9}', '{"nothing":0}'):
        file.write_text(file.read_text().replace('"rows":{}', f'"rows":{rows}'))
        with pytest.raises(CorruptWeights):
            load_signature(tmp_path)
        save_signature(graph.signature, tmp_path)
