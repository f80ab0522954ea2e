"""Triton kernels for a GPU, off by default; see [`use_triton`]. Nothing here imports Triton before it is used."""

from .switch import use_triton

__all__ = ["use_triton"]
