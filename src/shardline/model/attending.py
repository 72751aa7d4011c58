"""How modules of a span attend: session by session in a merged step, and by groups of heads.

Modules find their attention in Transformers' registry by their config's word for it. While a block
runs, that word can be ours; the function behind it asks the one that the word stood for.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from shardline.core.errors import StepFailed
from shardline.model.merging import parts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from torch import nn
    from transformers import PreTrainedConfig

    from shardline.model.merging import Piece

__all__ = ["attention_of", "can_group"]

NAME: Final = "shardline"
GROUPS: Final = "sdpa"
"""The attention that is asked by groups of heads."""
REGISTRY: Final = "ALL_ATTENTION_FUNCTIONS"
"""As modules of Transformers import it."""
WORD: Final = "_attn_implementation_internal"
"""Where a config keeps its word; to say it by the config's own way takes 20 times as long."""
_sdpa: Any = torch.nn.functional.scaled_dot_product_attention


class _Now(threading.local):
    """The step that this thread is running."""

    pieces: Sequence[Piece] = ()
    masks: Sequence[torch.Tensor | None] = ()
    stands_for: str = GROUPS


_now = _Now()


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Each session's queries on its own keys and values; (1, all tokens, heads, width) out."""
    function = _function(module)
    if not _now.pieces:
        return function(module, query, key, value, attention_mask, **options)
    outs: list[torch.Tensor] = []
    queries = parts(_now.pieces, query)
    for piece, mask, own in zip(_now.pieces, _now.masks, queries, strict=True):
        shape = 1, piece.stop - piece.first, query.shape[1], value.shape[-1]
        out: torch.Tensor | None = None
        if piece.failed is None and piece.states is not None:
            with piece.failing_alone():
                found, _ = function(module, own, *piece.states(), mask, **options)
                out = found.reshape(shape)
        outs.append(query.new_zeros(shape) if out is None else out)
        piece.states = None
    return torch.cat(outs, dim=1), None


def _function(module: nn.Module) -> Callable[..., Any]:
    """The attention that the model would have used."""
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    found = cast("Any", ALL_ATTENTION_FUNCTIONS).get_interface(_now.stands_for, own)
    return functools.partial(_by_groups, found) if _now.stands_for == GROUPS else found


def _by_groups(  # noqa: PLR0913, PLR0917  (as the registry's functions are called)
    function: Callable[..., Any],
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A lone token's heads that share keys and values are asked as so many tokens of one head.

    They see the same, so the result is the same but for rounding; torch's kernel for the CPU takes
    5 to 17 times as long for them as heads (decision 0026). Other devices have other kernels.
    """
    batch, heads, tokens, width = query.shape
    shared = key.shape[1]
    alike = tokens == 1 and attention_mask is None and not _asks_more(options)
    if not alike or heads == shared or heads % shared or query.device.type != "cpu":
        return function(module, query, key, value, attention_mask, **options)
    grouped = query.reshape(batch, shared, heads // shared, width)
    dropped, scale = options.get("dropout", 0.0), options.get("scaling")
    out = _sdpa(grouped, key, value, dropout_p=dropped, scale=scale)
    return out.reshape(batch, 1, heads, -1), None


def _asks_more(options: dict[str, Any]) -> bool:
    """Whether attention is asked for what torch's function is not."""
    return any(options.get(name) is not None for name in ("position_bias", "softcap", "cache"))


cast("Any", AttentionInterface).register(NAME, _attend)


def can_group(block: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a lone session's heads may be grouped: in 16 bits, where the last bits are nobody's.

    In float32 a session that is alone has the very bits of Transformers. Modules that do not ask
    the registry would take another of their own ways for our word: these are left.
    """
    modules = [module for module in block.modules() if hasattr(module, "num_key_value_groups")]
    asked = (hasattr(sys.modules[type(one).__module__], REGISTRY) for one in modules)
    names = {cast("Any", one).config._attn_implementation for one in modules}  # noqa: SLF001
    return dtype in {torch.bfloat16, torch.float16} and names == {GROUPS} and all(asked)


@contextlib.contextmanager
def attention_of(
    configs: Iterable[PreTrainedConfig],
    pieces: Sequence[Piece] = (),
    masks: Sequence[torch.Tensor | None] = (),
) -> Generator[None]:
    """Within, modules of these configs attend as this page says, on this thread.

    With `pieces`, session by session. Whoever enters holds what keeps other threads from these
    configs.
    """
    held = [(vars(config), vars(config)[WORD]) for config in configs]
    names = {name for _, name in held}
    if len(names) != 1:
        raise StepFailed("modules of one block attend in different ways")
    _now.pieces, _now.masks, _now.stands_for = pieces, masks, names.pop()
    try:
        for config, _ in held:
            config[WORD] = NAME
        yield
    finally:
        for config, name in held:
            config[WORD] = name
        _now.pieces, _now.masks = (), ()
