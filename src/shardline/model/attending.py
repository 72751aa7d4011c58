"""How modules of a span attend: each session to its own in a merged step, and by groups of heads.

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
from shardline.kernels import Runs, attend, can_attend
from shardline.model.merging import parts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from torch import nn
    from transformers import PreTrainedConfig

    from shardline.model.merging import Given, Handing, Piece

__all__ = ["attention_of", "can_group", "prepare"]

NAME: Final = "shardline"
GROUPS: Final = "sdpa"
"""The attention that is asked by groups of heads."""
REGISTRY: Final = "ALL_ATTENTION_FUNCTIONS"
"""As modules of Transformers import it."""
WORD: Final = "_attn_implementation_internal"
"""Where a config keeps its word; to say it by the config's own way takes 20 times as long."""
WIDTH: Final = 64
"""Of a head: one that our kernel is for."""
_sdpa: Any = torch.nn.functional.scaled_dot_product_attention


class _Now(threading.local):
    """The step that this thread is running."""

    handing: Handing | None = None
    masks: Sequence[torch.Tensor | None] = ()
    stands_for: str = GROUPS
    ours: bool = False


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
    if _now.handing is None:
        return function(module, query, key, value, attention_mask, **options)
    pieces, given = _now.handing.pieces, _now.handing.take()
    shape = 1, query.shape[2], query.shape[1], value.shape[-1]
    if given is None:
        return query.new_zeros(shape), None
    asked = {index: mask for index, mask in enumerate(_now.masks) if pieces[index].failed is None}
    out = _in_one_call(pieces, given, query, asked, options)
    if asked:
        given.note(None)
    out = query.new_zeros(shape) if out is None else out
    queries = parts(pieces, query) if asked else ()
    for index, mask in asked.items():
        piece = pieces[index]
        with piece.failing_alone():
            found, _ = function(module, queries[index], *given.states(index), mask, **options)
            own = out[:, piece.first : piece.stop]
            own.copy_(found.reshape(own.shape))
    return out, None


def _in_one_call(
    pieces: Sequence[Piece],
    given: Given,
    query: torch.Tensor,
    asked: dict[int, torch.Tensor | None],
    options: dict[str, Any],
) -> torch.Tensor | None:
    """Lone tokens that see all of what their sessions' pages hold; taken from those that ask.

    Zeros where others ask, and None if there is no such.
    """
    if not _is_ours(query, *given.fresh, options):
        return None
    sessions: list[tuple[int, Runs]] = []
    for index in [index for index, mask in asked.items() if mask is None]:
        piece = pieces[index]
        if piece.tokens != 1:
            continue
        with piece.failing_alone():
            runs = given.runs(index)
            if runs is None:
                continue
            sessions.append((piece.first, runs))
        del asked[index]
    if not sessions:
        return None
    return attend(query, sessions, given.fresh, options.get("scaling"), given.note)


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
    5 to 17 times as long for them as heads (decision 0026). Other devices have other kernels. Ours
    gives a session what it gives it among others.
    """
    batch, heads, tokens, width = query.shape
    shared = key.shape[1]
    alike = tokens == 1 and attention_mask is None and not _asks_more(options)
    if alike and len(key) == batch and _is_ours(query, key, value, options):
        runs = [(0, Runs([(key, value)]))]
        return attend(query.transpose(0, 2), runs, scale=options.get("scaling")).transpose(
            0, 1
        ), None
    if not alike or heads == shared or heads % shared or query.device.type != "cpu":
        return function(module, query, key, value, attention_mask, **options)
    grouped = query.reshape(batch, shared, heads // shared, width)
    dropped, scale = options.get("dropout", 0.0), options.get("scaling")
    out = _sdpa(grouped, key, value, dropout_p=dropped, scale=scale)
    return out.reshape(batch, 1, heads, -1), None


def _asks_more(options: dict[str, Any]) -> bool:
    """Whether attention is asked for what torch's function is not."""
    return any(options.get(name) is not None for name in ("position_bias", "softcap", "cache"))


def _is_ours(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, options: dict[str, Any]
) -> bool:
    """Whether lone tokens of these heads are asked by our kernel, wherever nothing is masked."""
    more = _asks_more(options) or options.get("dropout") or options.get("s_aux") is not None
    return _now.ours and not more and can_attend(query, keys, values)


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


def prepare(dtype: torch.dtype, device: torch.device) -> None:
    """Compile our kernel, if it is for these; else the first token would wait for it."""
    token = torch.zeros((1, 1, 1, WIDTH), dtype=dtype, device=device)
    can_attend(token, token, token)


@contextlib.contextmanager
def attention_of(
    configs: Iterable[PreTrainedConfig],
    handing: Handing | None = None,
    masks: Sequence[torch.Tensor | None] = (),
    *,
    may_group: bool = True,
) -> Generator[None]:
    """Within, modules of these configs attend as this page says, on this thread.

    With `handing`, each session to its own. Whoever enters holds what keeps other threads from
    these configs, and says what `can_group` says of their block.
    """
    held = [(vars(config), vars(config)[WORD]) for config in configs]
    names = {name for _, name in held}
    if len(names) != 1:
        raise StepFailed("modules of one block attend in different ways")
    _now.handing, _now.masks, _now.stands_for = handing, masks, names.pop()
    _now.ours = may_group and _now.stands_for == GROUPS
    try:
        for config, _ in held:
            config[WORD] = NAME
        yield
    finally:
        for config, name in held:
            config[WORD] = name
        _now.handing, _now.masks, _now.ours = None, (), False
