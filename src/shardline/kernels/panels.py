"""How weights lie: in panels of 32 outputs, for each step the inputs that 4 bytes hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from shardline.kernels.code import OUTPUTS
from shardline.kernels.compiling import compiled
from shardline.kernels.memory import lasting

if TYPE_CHECKING:
    from shardline.kernels.arithmetic import Arithmetic

__all__ = ["in_panels", "of_panels", "takes"]


def takes(weights: torch.Tensor, arithmetic: Arithmetic) -> bool:
    """Whether these (outputs, inputs) can be held so here: whole panels of whole steps."""
    outputs, inputs = weights.shape
    whole = outputs % OUTPUTS == 0 and inputs % arithmetic.inputs == 0 and weights.numel() > 0
    here = weights.device.type == "cpu" and weights.dtype == getattr(torch, arithmetic.weights)
    return whole and here and compiled(arithmetic) is not None


def in_panels(weights: torch.Tensor, arithmetic: Arithmetic) -> torch.Tensor:
    """(outputs, inputs) -> (panels, steps, outputs of a panel, inputs of a step), in memory."""
    outputs, inputs = weights.shape
    each = outputs // OUTPUTS, OUTPUTS, inputs // arithmetic.inputs, arithmetic.inputs
    return lasting(weights.reshape(each).transpose(1, 2))


def of_panels(panels: torch.Tensor) -> torch.Tensor:
    """The other way round, copied."""
    count, steps, outputs, inputs = panels.shape
    return panels.transpose(1, 2).reshape(count * outputs, steps * inputs)
