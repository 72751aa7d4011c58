"""What this room uses of Transformers and torch, with types and without chatter."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = [
    "adopt_threads",
    "causal_class",
    "computing_thread",
    "quiet",
    "read_config",
    "read_generation",
    "text_config",
]

_auto_model: Any = AutoModelForCausalLM
_auto_config: Any = AutoConfig
_generation: Any = GenerationConfig
_SILENT = 50
"""The level above every message of Transformers."""


@contextmanager
def quiet() -> Generator[None]:
    """No progress bars, reports or warnings of Transformers inside; all as before after it."""
    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity(_SILENT)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def adopt_threads() -> None:
    """Let this new thread compute with as many threads as its process was told to.

    A thread learns of `torch.set_num_threads` when some operator first asks; a matrix product
    before that takes every core, and its last bits differ.
    """
    torch.set_num_threads(torch.get_num_threads())


@contextmanager
def computing_thread(threads: int, name: str) -> Generator[ThreadPoolExecutor]:
    """A thread that computes with so many of the CPU's; every other thread does so alone.

    OpenMP keeps a pool for each thread that asks. Two pools are more threads than cores: then idle
    ones sleep at once, and have to be woken for each of a step's hundreds of parallel loops. A step
    of a 1.1B model took 1.7 times as long while a second pool was merely there.
    """
    torch.set_num_threads(1)
    with ThreadPoolExecutor(1, name) as thread:
        thread.submit(_compute_with, threads).result()
        torch.set_num_threads(1)  # for threads that are still to come
        yield thread


def _compute_with(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.get_num_threads()  # from here on this thread asks nobody again


def read_config(directory: Path) -> PreTrainedConfig:
    """The config in this directory; never runs code that the directory brings."""
    config = _auto_config.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    return cast("PreTrainedConfig", config)


def read_generation(directory: Path) -> GenerationConfig | None:
    """How this checkpoint asks to be sampled; None where it does not say."""
    if not (directory / "generation_config.json").is_file():
        return None
    with quiet():
        return cast("GenerationConfig", _generation.from_pretrained(directory))


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The decoder's own config, where a model has several."""
    whole: Any = config
    return cast("PreTrainedConfig", whole.get_text_config(decoder=True))


def causal_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The causal language model of this config; raises KeyError where there is none."""
    return cast("type[PreTrainedModel]", _auto_model._model_mapping[type(config)])  # noqa: SLF001
