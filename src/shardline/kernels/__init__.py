"""Products of few rows with many weights, attention, and what lies between, near memory's speed."""

from shardline.kernels.adding import added, can_add
from shardline.kernels.attention import Attention, Form, Runs, attend, can_attend
from shardline.kernels.calling import DONE, call, watched
from shardline.kernels.gating import can_gate, gated, table_of
from shardline.kernels.normalising import can_normalise, normalised
from shardline.kernels.product import Panels
from shardline.kernels.product8 import Panels8
from shardline.kernels.rotating import rotated

__all__ = [
    "DONE",
    "Attention",
    "Form",
    "Panels",
    "Panels8",
    "Runs",
    "added",
    "attend",
    "call",
    "can_add",
    "can_attend",
    "can_gate",
    "can_normalise",
    "gated",
    "normalised",
    "rotated",
    "table_of",
    "watched",
]
