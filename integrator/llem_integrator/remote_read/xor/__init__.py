"""Decoders of Prometheus's XOR chunks: numpy's, and numba's where loading it pays."""

from llem_integrator.remote_read.xor.chunks import decode, expect

__all__ = ["decode", "expect"]
