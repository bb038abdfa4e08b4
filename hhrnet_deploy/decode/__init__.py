"""Heads to people: the readable reference, the compiled decoder, and the kernels for GPUs."""

from hhrnet_deploy.decode.api import decode_heads
from hhrnet_deploy.decode.request import coordinate_grid

__all__ = ["coordinate_grid", "decode_heads"]
