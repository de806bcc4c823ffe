"""A campaign through one judge that can tell many cases at a time to be of no interest.

Cases are those of an unguided campaign, with bases drawn for a whole batch at a time. Nothing is named or
learned: what a case costs is drawing, mutating and the judge.
"""

from __future__ import annotations

import gc
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random

from acpitk.checks.finding import Finding
from acpitk.fuzz.campaign import Campaign, CampaignResult, Found, judgement, keep, minimised
from acpitk.fuzz.pools import Pending, pool
from acpitk.machine import Case

BATCH = 1024
"""Iterations that are judged at a time."""

Sift = Callable[[Sequence[Case]], Sequence[int]]
"""Cases to the numbers of those that the judge is to be asked about; the others have no findings."""


@dataclass(frozen=True, slots=True)
class _Sweep:
    campaign: Campaign
    bases: tuple[Case, ...]
    sift: Sift


@dataclass(frozen=True, slots=True)
class _Swept:
    start: int
    stop: int
    asked: int
    counts: Counter[str] = field(default_factory=Counter)
    found: dict[str, Found] = field(default_factory=dict)


def sweep(campaign: Campaign, sift: Sift, *, jobs: int = 1) -> Generator[CampaignResult, None, None]:
    """Run `campaign`, which has one oracle, yielding the result so far; the last one is minimised.

    `runs` counts the cases that were shown to the oracle itself.

    Raises:
        ToolError: a worker process died.
    """
    started = time.monotonic()
    runs: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    found: dict[str, Found] = {}
    done = 0
    (oracle,) = campaign.oracles

    def result() -> CampaignResult:
        return CampaignResult(
            done=done,
            seconds=time.monotonic() - started,
            runs=dict(runs),
            found=tuple(replace(each, count=counts[name]) for name, each in sorted(found.items())),
        )

    work = _Sweep(replace(campaign, seeds=(), pool=0), campaign.bases(), sift)
    with pool(work, jobs=jobs) as workers:
        waiting: deque[Pending] = deque()
        at, late = 0, False
        while True:
            late = late or (
                campaign.max_seconds is not None and time.monotonic() - started >= campaign.max_seconds
            )
            while len(waiting) < (1 if jobs == 1 else 3 * jobs) and not late:
                left = BATCH if campaign.iterations is None else min(BATCH, campaign.iterations - at)
                if left <= 0:
                    break
                waiting.append(workers.submit(_swept, range(at, at + left)))
                at += left
            if not waiting:
                break
            part: _Swept = waiting.popleft().result()
            done = part.stop
            runs[oracle.name] += part.asked
            counts.update(part.counts)
            for each in part.found.values():
                keep(found, each)
            yield result()
    spent = time.monotonic() - started
    with pool(work.campaign, jobs=jobs) as workers:
        for smaller in minimised(found, {}, workers):
            found[smaller.finding.signature] = smaller
    yield replace(result(), seconds=spent)


def _swept(sweep: _Sweep, iterations: range) -> _Swept:
    campaign, bases = sweep.campaign, sweep.bases
    (oracle,) = campaign.oracles
    rng = Random(f"{campaign.seed}:bases from {iterations.start}")
    with _no_collection():
        tried = [campaign.mutated(index, rng.choice(bases)) for index in iterations]
        numbers = sweep.sift([case for case, _ in tried])
    part = _Swept(iterations.start, iterations.stop, len(numbers))
    for number in numbers:
        case, names = tried[number]
        findings: dict[str, Finding] = {each.signature: each for each in judgement(oracle, case)}
        for signature, finding in findings.items():
            part.counts[signature] += 1
            new = Found(
                finding=finding,
                case=case,
                oracle=oracle.name,
                iteration=iterations.start + number,
                mutators=names,
                count=0,
                kernels=finding.kernels,
            )
            keep(part.found, new)
    return part


@contextmanager
def _no_collection() -> Iterator[None]:
    """Cases and outcomes hold no cycles: walking them for some costs a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
