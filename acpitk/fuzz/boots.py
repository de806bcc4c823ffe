"""Fuzzed cases on real kernels, every boot against the model. How to boot one arrives as a callable.

Iteration `i` is a function of the seed and `i` alone, so a campaign can be cut anywhere and gone on with.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count

from acpitk.checks.catalogue import finding
from acpitk.checks.differential import Comparison, Verdict, findings
from acpitk.checks.finding import Finding
from acpitk.checks.replay import Replayed
from acpitk.fuzz.campaign import Campaign, oracle_error
from acpitk.fuzz.minimise import minimise
from acpitk.fuzz.mutators import sealed
from acpitk.machine import Case

_LISTED = 3
"""Allocations spelled out in a finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """One boot as judged against the model.

    Args:
        ended: how it ended, in the runner's words; `error` where it could not be judged.
        seconds: wall time.
        fields: verdict of every compared field.
        requests: boot-time allocations replayed; `agreed` of them got the model's address.
        findings: one for each disagreement.
        via: the way it ran, in the runner's words.
    """

    ended: str
    seconds: float = 0.0
    fields: Mapping[str, Verdict] = field(default_factory=dict)
    requests: int = 0
    agreed: int = 0
    findings: tuple[Finding, ...] = ()
    via: str = "fresh"


Judge = Callable[[Case], Boot]


@dataclass(frozen=True, slots=True, kw_only=True)
class Booted:
    """One iteration on one kernel: the case, the mutators that made it, and the judged boot."""

    iteration: int
    kernel: str
    case: Case
    mutators: tuple[str, ...]
    boot: Boot


def judged(
    comparison: Comparison, requests: Sequence[Replayed], *, ended: str, seconds: float, via: str = "fresh"
) -> Boot:
    """A boot from the comparison of its outcome with the model's and the replay of its allocations."""
    wrong = [request for request in requests if not request.agrees]
    return Boot(
        ended=ended,
        seconds=seconds,
        via=via,
        fields=comparison.fields,
        requests=len(requests),
        agreed=len(requests) - len(wrong),
        findings=(*findings(comparison), *_allocations(wrong, comparison.actual[1])),
    )


def _allocations(wrong: Sequence[Replayed], kernel: str) -> Iterator[Finding]:
    if not wrong:
        return
    shown, more = wrong[:_LISTED], f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
    yield finding(
        "DIFF-ALLOCATIONS",
        where="; ".join(f"{r.request.call} from {r.request.caller}" for r in shown) + more,
        expected="model: " + "; ".join(f"{r.model:#x}" for r in shown),
        actual=f"boot {kernel}: " + "; ".join(f"{r.kernel:#x}" for r in shown),
        cause=f"model and boot: {wrong[0].request.caller}",
        kernels=(kernel,),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BootCampaign:
    """What to boot.

    Args:
        seed: everything random follows from it.
        judges: kernel -> what boots a case on it and judges the boot; called from several threads at once.
        deliverable: whether a guest can be given a case; the others are passed over.
        start: the first iteration.
        iterations: how many; None is without end.
        seeds: cases to begin with, unchanged, and to mutate later.
    """

    seed: int
    judges: Mapping[str, Judge]
    deliverable: Callable[[Case], bool]
    start: int = 0
    iterations: int | None = None
    seeds: tuple[Case, ...] = ()

    def cases(self) -> Iterator[tuple[int, Case, tuple[str, ...]]]:
        """(iteration, case, mutators) of every iteration with a case that a guest can be given."""
        made = Campaign(seed=self.seed, iterations=0, oracles=(), seeds=self.seeds)
        for index in count(self.start):
            if self.iterations is not None and index >= self.start + self.iterations:
                return
            case, mutators = made.case(index)
            case = sealed(case)
            if self.deliverable(case):
                yield index, case, mutators

    def run(
        self, *, jobs: int, max_seconds: float | None = None, cancel: Callable[[], None]
    ) -> Generator[Booted, None, None]:
        """Boot every case on every kernel, `jobs` boots at a time, yielding them in order.

        Args:
            max_seconds: begin no boot after this long.
            cancel: ends the boots under way; called when the iterator is closed or an exception passes.
        """
        until = None if max_seconds is None else time.monotonic() + max_seconds
        waiting: deque[tuple[Booted, Future[Boot]]] = deque()
        pool = ThreadPoolExecutor(jobs)
        try:
            for booted in self._planned():
                if until is not None and time.monotonic() >= until:
                    break
                waiting.append((booted, pool.submit(self.judge, booted.kernel, booted.case)))
                if len(waiting) > jobs:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        except BaseException:
            cancel()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _planned(self) -> Iterator[Booted]:
        for index, case, mutators in self.cases():
            for kernel in self.judges:
                planned = Boot(ended="planned")
                yield Booted(iteration=index, kernel=kernel, case=case, mutators=mutators, boot=planned)

    def judge(self, kernel: str, case: Case) -> Boot:
        """Boot one case on one kernel; a boot that fails to be judged is a finding of its own."""
        try:
            return self.judges[kernel](case)
        except Exception as error:
            return Boot(ended="error", findings=(oracle_error(f"boot {kernel}", error),))

    def minimised(self, booted: Booted, signature: str, *, budget: int) -> Case:
        """The smallest case found that shows `signature` on the same kernel, by at most `budget` boots."""

        def shows(case: Case) -> bool:
            if sealed(case) != case or not self.deliverable(case):
                return False
            return signature in signatures(self.judge(booted.kernel, case).findings)

        return minimise(booted.case, shows, budget=budget)


def _finished(booted: Booted, future: Future[Boot]) -> Booted:
    return replace(booted, boot=future.result())


def signatures(found: Iterable[Finding]) -> set[str]:
    """The signatures of findings."""
    return {each.signature for each in found}


@dataclass(slots=True)
class Tally:
    """What the boots of one kernel came to.

    Args:
        boots: how many.
        seconds: their wall time, added up.
        fields: field -> how often it had each verdict.
        requests, agreed: boot-time allocations replayed, and those with the model's address.
        ends: how boots ended, and how often.
        ways: by which way they ran, and how often.
        disagreed: boots with a finding.
    """

    boots: int = 0
    seconds: float = 0.0
    fields: dict[str, Counter[Verdict]] = field(default_factory=dict)
    requests: int = 0
    agreed: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)
    disagreed: int = 0

    def add(self, boot: Boot) -> None:
        """Count one more boot."""
        self.boots += 1
        self.seconds += boot.seconds
        for name, verdict in boot.fields.items():
            self.fields.setdefault(name, Counter())[verdict] += 1
        self.requests += boot.requests
        self.agreed += boot.agreed
        self.ends[boot.ended] += 1
        self.ways[boot.via] += 1
        self.disagreed += bool(boot.findings)
