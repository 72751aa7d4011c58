"""Any architecture of Transformers from its config alone, with inputs that its forward takes.

No architecture is named here. Inputs are known by the names of forward's parameters, their sizes by
the names in configs. Where a name stands for several layouts (sound as mels x frames or the other
way round), the first one that the model's own forward accepts is taken. All on the meta device:
shapes, no weights, next to no memory.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import itertools
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch._subclasses import FakeTensorMode
from transformers import AutoModel, PreTrainedConfig

from shardline.core.errors import Unsupported
from shardline.model.graph.capturing import silent
from shardline.model.library import quiet
from shardline.model.loading import BUILDING
from shardline.model.route import model_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

__all__ = ["TOKENS", "OnShapes", "build_on_shapes", "configs_in", "example_inputs"]

Inputs = dict[str, torch.Tensor]
Shape = tuple[int, ...]

BATCH: Final = 2
"""Not one: a batch of one is often special."""
TOKENS: Final = 32
FRAMES: Final = 128
"""Of sound, as long as a model does not want another number."""
SAMPLES: Final = 16_000
"""A second of sound."""
PICTURE: Final = 224
"""Pixels a side, where a config names no size."""
_WORDS: Final = ("input_ids", "attention_mask", "decoder_input_ids")
"""Whole numbers; all others are floats of the model's own kind."""
_KNOWN: Final = (*_WORDS, "pixel_values", "pixel_values_videos", "input_features", "input_values")
_MELS: Final = (
    "num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel", "mel_bins",
)  # fmt: skip
_FAULTS: Final = (
    RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError,
    ArithmeticError, ImportError,
)  # fmt: skip
"""What a forward may raise on inputs that it does not take."""
_auto_model: Any = AutoModel


class OnShapes:
    """A model's forward without values, for whoever wants to see what its modules are given.

    Plain tensors of the meta device take a third of the time of fake ones. Where the model's code
    asks for values, fake ones are taken, as capturing does. A mask of ones says nothing but makes
    code look whether it does, so plain tensors go without.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        self._fake: FakeTensorMode | None = None

    def __call__(self, given: dict[str, Any]) -> Any:  # noqa: ANN401 - whatever the model returns
        """What the model returns; raises what its forward does."""
        if self._fake is None:
            with contextlib.suppress(*_FAULTS):
                return self._model(**{n: x for n, x in given.items() if n != "attention_mask"})
        fake = self._fake or FakeTensorMode(allow_non_fake_inputs=True)
        output = _on_fakes(self._model, given, fake)
        self._fake = fake
        return output


def build_on_shapes(model_dir: Path) -> PreTrainedModel:
    """The network of this config, without a task's head and without weights.

    Raises NoSuchModel, CorruptWeights or Unsupported for a config of no model known here.
    """
    config = copy.deepcopy(model_config(model_dir))
    for part in configs_in(config):
        if hasattr(part, "use_cache"):
            part.use_cache = False  # a cache is no tensor that a graph could give back
    dtype = cast("torch.dtype | None", config.dtype) or torch.float32
    try:
        with BUILDING, quiet(), torch.device("meta"):
            model = _auto_model.from_config(config, dtype=dtype, trust_remote_code=False)
    except (ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())[:200]
        raise Unsupported(f"{config.model_type} cannot be built from its config: {said}") from None
    return cast("PreTrainedModel", model.eval())


def example_inputs(
    model: PreTrainedModel, run: Callable[[dict[str, Any]], object] | None = None
) -> Inputs:
    """Small inputs for a batch of two, on the meta device.

    `run` is how they are tried, last of all those that are returned; as capturing does if nothing
    else is said.

    Raises Unsupported, saying what to give instead, if forward accepts none that we know of.
    """
    takes = inspect.signature(cast("Any", model).forward).parameters
    main = cast("str | list[str]", model.main_input_name)
    needed = [main] if isinstance(main, str) else main
    run = run or functools.partial(_on_fakes, model)
    offered = [name for name in _KNOWN if name in takes and _belongs(name, model)]
    with torch.no_grad(), quiet(), silent():
        for names in (offered, needed):
            for shapes in itertools.product(*(_shapes(name, model.config) for name in names)):
                given = {n: _tensor(n, s, model) for n, s in zip(names, shapes, strict=True)}
                if given and _accepts(run, given):
                    return given
        own = {
            name: value.to("meta") if isinstance(value, torch.Tensor) else value
            for name, value in cast("dict[str, Any]", model.dummy_inputs).items()
        }
        if _accepts(run, own):
            return own
    raise Unsupported(
        f"{type(model).__name__} takes {', '.join(needed)}, for which no example was found: give "
        "FILE.py:FACTORY, a function of yours that returns (module, args, kwargs)"
    )


def _belongs(name: str, model: PreTrainedModel) -> bool:
    """Whether an input that forward knows belongs to an example."""
    if name == "attention_mask":  # of words; that of sounds and pictures is left out
        return model.main_input_name == "input_ids"
    return name != "decoder_input_ids" or bool(model.config.is_encoder_decoder)


def _accepts(run: Callable[[dict[str, Any]], object], given: dict[str, Any]) -> bool:
    try:
        run(given)
    except _FAULTS:
        return False
    return True


def _on_fakes(
    model: PreTrainedModel, given: dict[str, Any], fake: FakeTensorMode | None = None
) -> Any:  # noqa: ANN401 - whatever the model returns
    """The model's forward on fake tensors: plain ones of meta would be asked for their values."""
    with fake or FakeTensorMode(allow_non_fake_inputs=True) as mode:
        seen = {
            name: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
            for name, value in given.items()
        }
        return cast("Any", model)(**seen)


def _tensor(name: str, shape: Shape, model: PreTrainedModel) -> torch.Tensor:
    dtype = torch.long if name in _WORDS else model.dtype
    return torch.ones(shape, dtype=dtype, device="meta")


def _shapes(name: str, config: PreTrainedConfig) -> list[Shape]:
    """The layouts that an input of this name may have, the likeliest first."""
    if name in _WORDS:
        longest = _number(config, "max_position_embeddings", "n_positions", default=TOKENS)
        return [(BATCH, min(TOKENS, longest))]
    if name in {"pixel_values", "pixel_values_videos"}:
        high, wide = _picture(config)
        still = (_number(config, "num_channels", "in_channels", default=3), high, wide)
        moving = (BATCH, _number(config, "num_frames", "frames_per_clip", default=8), *still)
        return [(BATCH, *still), moving] if name == "pixel_values" else [moving]
    if name in {"input_features", "input_values"}:
        return list(_sounds(name, config))
    return []


def _sounds(name: str, config: PreTrainedConfig) -> Iterator[Shape]:
    if name == "input_values":
        yield (BATCH, SAMPLES)
    mels = _number(config, *_MELS, default=80)
    lengths = [
        FRAMES,
        2 * _number(config, "max_source_positions", default=0),
        _number(config, "max_length", "spec_size", default=0),
    ]
    for frames in filter(None, lengths):
        wide, high = (BATCH, mels, frames), (BATCH, frames, mels)
        yield from (high, wide) if name == "input_values" else (wide, high)
        yield (BATCH, 1, frames, mels)


def _picture(config: PreTrainedConfig) -> tuple[int, int]:
    size = _field(config, "image_size")
    if isinstance(size, dict):
        table = cast("dict[str, int]", size)
        size = (table.get("height", PICTURE), table.get("width", PICTURE))
    if isinstance(size, int):
        return (size, size)
    if isinstance(size, list | tuple) and len(cast("list[int]", size)) == 2:  # noqa: PLR2004
        high, wide = cast("list[int]", size)
        return (high, wide)
    return (PICTURE, PICTURE)


def _number(config: PreTrainedConfig, *names: str, default: int) -> int:
    for name in names:
        found = _field(config, name)
        if isinstance(found, int) and found > 0:
            return found
    return default


def _field(config: PreTrainedConfig, name: str) -> object:
    """The first value of this name, in the config or in those that it holds."""
    found = (getattr(part, name, None) for part in configs_in(config))
    return next((value for value in found if value is not None), None)


def configs_in(config: PreTrainedConfig) -> Iterator[Any]:
    """The config and those of its parts (the towers of CLIP), from the outside in."""
    yield config
    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig):
            yield from configs_in(part)
