"""Prometheus's XOR chunks, decoded: by numpy side by side, or by numba where loading it pays."""

from llem_integrator.remote_read.xor.chunks import decode, expect

__all__ = ["decode", "expect"]
