"""A fuzzing campaign: cases in, deduplicated findings out.

Iteration `i` is a function of the campaign and `i` alone: the first iterations are the seed cases unchanged,
each later one mutates a base case with `Random(f"{seed}:{i}")`. So any iteration can be had by itself
(`Campaign.case`), and a campaign cut in shards finds what it finds in one piece.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from acpitk.checks.finding import Finding, Severity
from acpitk.errors import ToolError
from acpitk.fuzz import raw
from acpitk.fuzz.minimise import minimise
from acpitk.fuzz.mutators import mutate, sealed
from acpitk.fuzz.strategies import draw_cases
from acpitk.machine import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """One judge of cases.

    Args:
        name: what progress and errors call it.
        check: the judge; what it raises becomes a finding of its own.
        every: it sees the iterations whose index is a multiple of this.
        deliverable: it sees cases made bootable by `sealed`, because its channel carries no others.
        minimise_budget: how often it is asked to make one of its cases smaller; 0 leaves cases as found.
        behaviour: names what a case made happen, for campaigns to count; None counts nothing.
        guide: a cheap forecast of what the judge says. Cases of one forecast are tried first when a case is
            made smaller, without asking the judge; None forecasts nothing.
    """

    name: str
    check: Callable[[Case], Iterable[Finding]]
    every: int = 1
    deliverable: bool = False
    minimise_budget: int = 400
    behaviour: Callable[[Case], str] | None = None
    guide: Callable[[Case], str | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One cause: the finding, how often it came up, and the smallest case that shows it.

    Args:
        finding: as the oracle worded it for `case`.
        case: the case, minimised once the campaign is through.
        oracle: name of the oracle that found it.
        iteration: the iteration the case comes from.
        mutators: the mutators that made it, in order; empty for a seed case as it was.
        count: iterations that showed this signature.
        kernels: every kernel named for it.
        minimised: the minimiser is through with `case`; before, it is what the iteration ran.
    """

    finding: Finding
    case: Case
    oracle: str
    iteration: int
    mutators: tuple[str, ...]
    count: int
    kernels: tuple[str, ...]
    minimised: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignResult:
    """A campaign so far, or at its end.

    Args:
        done: iterations finished; below `Campaign.iterations` the campaign was cut short or goes on.
        seconds: wall time spent.
        runs: how often each oracle was asked, by name.
        mutators: how often each mutator was applied, by name.
        found: one per signature, in signature order.
        behaviours: how many different ones the oracles named.
    """

    done: int = 0
    seconds: float = 0.0
    runs: Mapping[str, int] = field(default_factory=dict)
    mutators: Mapping[str, int] = field(default_factory=dict)
    found: tuple[Found, ...] = ()
    behaviours: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What to fuzz, with what, for how long.

    Args:
        seed: everything random follows from it.
        iterations: how many cases to try.
        oracles: the judges.
        seeds: cases to begin with, unchanged, and to mutate later.
        pool: how many base cases hypothesis draws besides.
        max_seconds: stop early after this long; what is found then depends on the machine's speed.
        shard: iterations between two progress reports, and what one worker takes at a time; few where
            oracles are slow. It has no influence on what is found.
    """

    seed: int
    iterations: int
    oracles: tuple[Oracle, ...]
    seeds: tuple[Case, ...] = ()
    pool: int = 64
    max_seconds: float | None = None
    shard: int = 64

    def bases(self) -> tuple[Case, ...]:
        """The cases that are mutated: the seeds, then the drawn ones."""
        return self.seeds + draw_cases(self.seed, self.pool)

    def case(self, index: int) -> tuple[Case, tuple[str, ...]]:
        """The case of iteration `index` and the names of the mutators that made it."""
        if index < len(self.seeds):
            return self.seeds[index], ()
        rng = Random(f"{self.seed}:{index}")
        bases = self.bases()
        return mutate(rng.choice(bases), rng, rounds=rng.choice(_ROUNDS))

    def run(self, *, jobs: int = 1) -> Iterator[CampaignResult]:
        """Run, yielding the result so far every few iterations; the last one is complete and minimised.

        Whoever stops listening early has lost at most the last few iterations. Apart from `seconds`, the
        results depend on the campaign alone, not on `jobs`.

        Raises:
            ToolError: a worker process died.
        """
        started = time.monotonic()
        starts = range(0, self.iterations, self.shard)
        shards = [range(at, min(at + self.shard, self.iterations)) for at in starts]
        total = CampaignResult()
        self.bases()  # drawn once, before any worker is forked
        seen: set[str] = set()
        for part, behaviours in _in_order(partial(_run_shard, self), shards, jobs):
            seen |= behaviours
            total = replace(_merge(total, part, time.monotonic() - started), behaviours=len(seen))
            yield total
            if self.max_seconds is not None and total.seconds >= self.max_seconds:
                break
        found: tuple[Found, ...] = ()
        for smaller in _in_order(partial(_minimise, self), total.found, jobs):
            found += (smaller,)
            seconds = time.monotonic() - started
            yield replace(total, found=found + total.found[len(found) :], seconds=seconds)
        yield replace(total, found=found, seconds=time.monotonic() - started)


_ROUNDS = (1, 1, 1, 2, 2, 3, 4, 6)
"""How many mutations in a row, by chance."""


def _ask(oracle: Oracle, case: Case) -> list[Finding]:
    try:
        return list(oracle.check(case))
    except Exception as error:
        return [oracle_error(oracle.name, error)]


def oracle_error(oracle: str, error: Exception) -> Finding:
    """The finding for what the oracle of that name raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return Finding(
        id="FUZZ-ORACLE-ERROR",
        severity=Severity.ERROR,
        where=f"oracle {oracle}",
        expected="a judgement of the case",
        actual=f"{type(error).__name__}: {error}",
        advice="Replay the case; fix the oracle, or what it runs.",
        mechanism=f"{place.name}(), {Path(place.filename).name}:{place.lineno}",
        cause=f"{oracle}:{type(error).__name__}:{place.name}",
    )


def _run_shard(campaign: Campaign, indices: range) -> tuple[CampaignResult, frozenset[str]]:
    runs: Counter[str] = Counter()
    applied: Counter[str] = Counter()
    found: dict[str, Found] = {}
    behaviours: set[str] = set()
    for index in indices:
        case, names = campaign.case(index)
        applied.update(names)
        for oracle in campaign.oracles:
            if index % oracle.every:
                continue
            runs[oracle.name] += 1
            judged = sealed(case) if oracle.deliverable else case
            if oracle.behaviour is not None:
                with suppress(Exception):  # what the oracle raises is its finding
                    behaviours.add(oracle.behaviour(judged))
            for finding in {f.signature: f for f in _ask(oracle, judged)}.values():
                new = Found(
                    finding=finding,
                    case=judged,
                    oracle=oracle.name,
                    iteration=index,
                    mutators=names,
                    count=1,
                    kernels=finding.kernels,
                )
                _keep(found, new)
    part = CampaignResult(
        done=len(indices), runs=dict(runs), mutators=dict(applied), found=tuple(found.values())
    )
    return part, frozenset(behaviours)


def _keep(found: dict[str, Found], new: Found) -> None:
    """Add `new`; of two with one signature the simpler case stays, and of equal ones the earlier."""
    signature = new.finding.signature
    if (old := found.get(signature)) is not None:
        best = min(old, new, key=lambda each: (_complexity(each.case), each.iteration))
        kernels = tuple(sorted({*old.kernels, *new.kernels}))
        new = replace(best, count=old.count + new.count, kernels=kernels)
    found[signature] = new


@lru_cache(maxsize=1024)
def _complexity(case: Case) -> tuple[int, int]:
    """Damaged tables, then bytes: a sound table says more about a cause than a shorter damaged one."""
    srats = [table for table in case.tables if table[:4] == b"SRAT"]
    damaged = sum(len(table) < raw.FIXED_SIZE or raw.cut(table).tail != b"" for table in srats)
    damaged += sealed(case) != case
    return damaged, sum(map(len, case.tables)) + len(case.cmdline)


def _merge(total: CampaignResult, part: CampaignResult, seconds: float) -> CampaignResult:
    found = {each.finding.signature: each for each in total.found}
    for each in part.found:
        _keep(found, each)
    return CampaignResult(
        done=total.done + part.done,
        seconds=seconds,
        runs=Counter(total.runs) + Counter(part.runs),
        mutators=Counter(total.mutators) + Counter(part.mutators),
        found=tuple(found[signature] for signature in sorted(found)),
    )


def _minimise(campaign: Campaign, found: Found) -> Found:
    oracle = next(oracle for oracle in campaign.oracles if oracle.name == found.oracle)
    signature = found.finding.signature

    def judge(case: Case) -> Finding | None:
        return next((f for f in _ask(oracle, case) if f.signature == signature), None)

    def shows(case: Case) -> bool:
        return (sealed(case) == case or not oracle.deliverable) and judge(case) is not None

    case = minimise(found.case, shows, budget=oracle.minimise_budget, guide=oracle.guide)
    finding = found.finding if case == found.case else judge(case)
    return found if finding is None else replace(found, case=case, finding=finding, minimised=True)


_T = TypeVar("_T")
_R = TypeVar("_R")

_work: Callable[[Any], Any]
"""In a worker process: its task, inherited by fork, because oracles need not be picklable."""


def _in_order(task: Callable[[_T], _R], items: Sequence[_T], jobs: int) -> Iterator[_R]:
    """`map(task, items)` on `jobs` processes; abandoned, it stops the workers."""
    if jobs <= 1:
        yield from map(task, items)
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(task,))
    waiting: deque[Future[_R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_in_worker, item))
            if len(waiting) > 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise ToolError("a fuzzing worker process died: try --jobs 1 to see the reason") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(task: Callable[[Any], Any]) -> None:
    global _work
    _work = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides


def _in_worker(item: Any) -> Any:
    return _work(item)
