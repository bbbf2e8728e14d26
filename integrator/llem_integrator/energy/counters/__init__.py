"""Counters of joules: what they rise by in windows."""
