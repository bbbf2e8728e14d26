"""Threads that run before all ordinary ones, where the process may have such."""

import os
from contextlib import suppress
from typing import Final

PRIORITY: Final = 1
"""The lowest of the real-time ones: before whatever computes, behind the kernel's own."""


def go_first() -> None:
    """Let the calling thread run as soon as it wakes, on a machine whose cores are all busy, too.

    It wants RLIMIT_RTPRIO or CAP_SYS_NICE; without, nothing changes. What this thread starts is ordinary.
    A niceness does not do it: on a busy machine a thread of -10 wakes as late as one of 0.
    Source: sched(7), sched_setscheduler(2).
    """
    if hasattr(os, "sched_setscheduler"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
