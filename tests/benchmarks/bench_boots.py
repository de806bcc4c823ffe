"""Boots a second, ways side by side: `python tests/benchmarks/bench_boots.py [CASES] [KERNEL...]`.

Run by hand. Random tables and command lines of `fuzz` that come to an end, first on a guest of 1 GiB, then on
those that `fuzz` draws, run by each way in turn, one at a time and two at a time. Ratios are of CPU time, of
this process and everything it started, which a busy machine leaves alone. Guests are started first.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

from acpitk.fuzz.campaign import Campaign
from acpitk.machine import Q35, Case
from acpitk.qemu.boots import Boots, unbootable
from acpitk.qemu.image import KernelImage, find_kernel
from acpitk.qemu.runner import Via, find_qemu
from acpitk.ranges import GIB

KERNELS = ("v5.10", "v6.1", "v6.12", "v7.3")
_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """CPU time of this process, of the children it has waited for, and of all that still runs below it."""
    rows = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        rows[int(path.parent.name)] = int(fields[1]), sum(map(int, fields[11:15])) / _TICK
    family = {os.getpid()}
    while more := {pid for pid, (parent, _) in rows.items() if parent in family} - family:
        family |= more
    return sum(spent for pid, (_, spent) in rows.items() if pid in family)


def run(boots: Boots, cases: Sequence[Case], jobs: int) -> tuple[float, float]:
    """Wall and CPU seconds; every case has to go the way it is meant to."""
    wall, cpu = time.monotonic(), cpu_seconds()
    with ThreadPoolExecutor(jobs) as pool:
        ways = {result.via for result in pool.map(boots.boot, cases)}
    assert ways == {boots.via}, ways
    return time.monotonic() - wall, cpu_seconds() - cpu


def compare(image: KernelImage, what: str, cases: Sequence[Case], count: int) -> None:
    """One table: a row for each way and number of jobs."""
    qemu = find_qemu()
    with Boots(image, via=Via.FORK, qemu=qemu) as boots:
        ended = (case for case in cases if boots.boot(case, timeout=1).rerun is None)
        cases = tuple(islice(ended, count))
    for jobs in (1, 2):
        fresh = 0.0
        for via in reversed(Via):
            with Boots(image, via=via, qemu=qemu) as boots, ThreadPoolExecutor(jobs) as pool:
                for memory in (GIB, 4 * GIB):
                    list(pool.map(boots.boot, jobs * [Case(machine=Q35(memory))]))
                wall, cpu = run(boots, cases, jobs)
            fresh = fresh or cpu
            each = 1000 * cpu / len(cases)
            print(
                f"{image.name:6} {what:6} {jobs} at a time  {via:9} {len(cases) / wall:6.1f} boots/s"
                f" {each:7.1f} ms CPU each  x{fresh / cpu:4.1f}",
                flush=True,
            )


def main(count: int, names: Sequence[str]) -> None:
    """Compare the ways on each kernel."""
    campaign = Campaign(seed=7, iterations=0, oracles=())
    cases = [case for index in range(2 * count) if not unbootable(case := campaign.case(index)[0])]
    small = [replace(case, machine=Q35(GIB)) for case in cases]
    for name in names:
        compare(find_kernel(name), "1 GiB", small, count)
        compare(find_kernel(name), "drawn", cases, count)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60, sys.argv[2:] or KERNELS)
