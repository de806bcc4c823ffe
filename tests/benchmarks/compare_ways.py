"""Logs of a quick way against those of fresh boots: `compare_ways.py KERNEL COUNT SEED [EVERY [JOBS [VIA]]]`.

Run by hand. Runs COUNT random cases of `fuzz`, all mutators, by VIA (fork), JOBS at a time, and every
EVERY-th of them fresh, too: the logs have to be the same but for times, and so do the ends and what was read
from memory. What VIA gave up and booted fresh itself (it hangs, or dies of an oops) is not compared
but counted; such logs end where the time limit cuts them. Ten times on the way, memory, descriptors and
zombies are counted. Exit status 1 where anything differs.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

from acpitk.fuzz.campaign import Campaign
from acpitk.machine import Case
from acpitk.qemu.boots import Boots, delivery_of, unbootable
from acpitk.qemu.image import find_kernel
from acpitk.qemu.runner import BootResult, Via, boot

TIMEOUT = 3.0
"""Seconds for a fresh boot."""
_OWN = re.compile(r"tsc: |---\[ end trace ")
"""Lines that no two boots share: what the clock runs at, and random numbers of oopses."""


def lines(result: BootResult) -> list[str]:
    """The log without times."""
    found = (re.sub(r"^\[ *\d+\.\d+\] ", "", line) for line in result.console.splitlines())
    return [line for line in found if not _OWN.match(line)]


def difference(quick: BootResult, fresh: BootResult) -> str | None:
    """The first difference; None where there is none."""
    ours, theirs = lines(quick), lines(fresh)
    if quick.ended is not fresh.ended or (ours == theirs and quick.memory != fresh.memory):
        return f"ended {quick.ended}, fresh {fresh.ended}; memory {quick.memory}, fresh {fresh.memory}"
    if ours != theirs:
        at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
        return f"line {at} of {len(ours)} and {len(theirs)}: {ours[at or 0]!r}, fresh {theirs[at or 0]!r}"
    return None


def cases(seed: int) -> Iterator[tuple[int, Case]]:
    """Index and case of the campaign's cases that some channel can carry."""
    campaign = Campaign(seed=seed, iterations=0, oracles=())
    return ((i, case) for i in count() if not unbootable(case := campaign.case(i)[0]))


def _rss(pid: int | str) -> int:
    try:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) // 1024 if found else 0


def _children(parents: set[int]) -> Iterator[tuple[int, str]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) in parents:
            yield int(path.parent.name), state


def resources() -> str:
    """Memory of this process and its guests, descriptors, and zombies of either."""
    guests = {pid for pid, _ in _children({os.getpid()})}
    zombies = sum(state == "Z" for _, state in _children({os.getpid(), *guests}))
    return (
        f"{_rss('self')} MiB, guests {sorted(map(_rss, guests))} MiB,"
        f" {len(os.listdir('/proc/self/fd'))} descriptors, {zombies} zombies"
    )


def main(kernel: str, number: int, seed: int, every: int = 1, jobs: int = 1, via: str = Via.FORK) -> int:
    """Compare; how many differ."""
    image = find_kernel(kernel)
    tally: Counter[str] = Counter()
    begun = time.monotonic()

    def run(order: int, index: int, case: Case) -> tuple[int, BootResult, str | None, bool]:
        quick = boots.boot(case, timeout=TIMEOUT)
        if order % every or quick.via is Via.FRESH:
            return index, quick, None, False
        fresh = boot(case, image, timeout=TIMEOUT, delivery=delivery_of(case))
        return index, quick, difference(quick, fresh), True

    with Boots(image, via=via, note=print) as boots, ThreadPoolExecutor(jobs) as pool:
        wanted = enumerate(islice(cases(seed), number), 1)
        done = 0
        while batch := list(islice(wanted, max(1, number // 10))):
            for index, quick, differs, compared in pool.map(lambda each: run(each[0], *each[1]), batch):
                done += 1
                tally[f"via {quick.via}"] += 1
                tally[f"ended {quick.ended}"] += 1
                tally["compared"] += compared
                if quick.rerun:
                    tally[f"rerun: {quick.rerun}"] += 1
                if differs:
                    tally["different"] += 1
                    print(f"case {index}, via {quick.via}, rerun {quick.rerun}: {differs}", flush=True)
            print(f"{kernel} {done} in {time.monotonic() - begun:.0f} s: {resources()}", flush=True)
    print(kernel, f"seed {seed}, {jobs} at a time:", dict(sorted(tally.items())), flush=True)
    return tally["different"]


if __name__ == "__main__":
    kernel, number, seed, *rest = sys.argv[1:]
    sys.exit(bool(main(kernel, int(number), int(seed), *map(int, rest[:2]), *rest[2:])))
