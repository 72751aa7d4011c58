"""Products of few rows with many weights, at the speed of the memory."""

from shardline.kernels.product import Panels
from shardline.kernels.product8 import Panels8

__all__ = ["Panels", "Panels8"]
