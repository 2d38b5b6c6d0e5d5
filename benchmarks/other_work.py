"""How much of the machine other work took while something was measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass
class OtherWork:
    share: float = 0.0
    """Of all cores, while the block ran: what neither this process nor its children used.

    Time that a hypervisor took away counts; short runs are told in ticks of the kernel's clock.
    """


@contextmanager
def other_work() -> Iterator[OtherWork]:
    """Watches while the block runs; child processes must have ended with it."""
    found = OtherWork()
    started, busy, own = time.perf_counter(), _busy_s(), _own_s()
    yield found
    seconds = (time.perf_counter() - started) * (psutil.cpu_count() or 1)
    found.share = max(0.0, (_busy_s() - busy) - (_own_s() - own)) / seconds


def _busy_s() -> float:
    times = psutil.cpu_times()
    # guest time is in user time already
    idle = times.idle + getattr(times, "iowait", 0.0)
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times)) - idle - guest


def _own_s() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
