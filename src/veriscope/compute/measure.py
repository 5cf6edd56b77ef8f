"""How long, how large, how much is free: numbers for a plan, and the words for a person."""

from __future__ import annotations

import math
import os
from pathlib import Path


def estimate(seconds_per_item: int | float, n: int, workers: int = 1) -> float:
    """Seconds that `n` items will take, shared out over `workers`."""
    return seconds_per_item * math.ceil(n / max(1, workers))


def duration(seconds: int | float) -> str:
    """`0.35` -> "350 ms", `42` -> "42 s", `200` -> "3 min 20 s", `7500` -> "2 h 5 min", `200000` -> "2 d 8 h"."""
    if seconds < 0:
        return "-" + duration(-seconds)
    if round(seconds * 1000) < 1000:
        return f"{round(seconds * 1000)} ms"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole, 60, "min", "s")
    minutes = round(seconds / 60)
    return _two(minutes, 60, "h", "min") if minutes < 24 * 60 else _two(round(seconds / 3600), 24, "d", "h")


def _two(n: int, per: int, large: str, small: str) -> str:
    return f"{n // per} {large}" + (f" {n % per} {small}" if n % per else "")


def size(n_bytes: int) -> str:
    """`1536` -> "1.5 KiB"."""
    value, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1023.95:  # what would print as 1024.0 belongs to the next unit
            break
        value, unit = value / 1024, larger
    return f"{n_bytes} B" if unit == "B" else f"{value:.1f} {unit}"


def free_memory() -> int:
    """Bytes that can still be taken without swapping, within the limit of this process's container.

    Read from Linux's /proc and control groups; elsewhere the free or, failing that, all pages the system reports.
    """
    found = [_linux_available(), _group_available()]
    known = [value for value in found if value is not None]
    if known:
        return max(0, min(known))
    for pages in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):
        if pages in os.sysconf_names:
            return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    raise OSError("this system does not tell how much memory it has")


def _linux_available(path: str = "/proc/meminfo") -> int | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _group_available(folder: str = "/sys/fs/cgroup") -> int | None:
    """What is left under the container's limit; files cached on its behalf can be dropped, so they count as free."""
    try:
        limit = Path(folder, "memory.max").read_text().strip()
        used = int(Path(folder, "memory.current").read_text())
        stat = dict(line.split() for line in Path(folder, "memory.stat").read_text().splitlines())
        return None if limit == "max" else int(limit) - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return None
