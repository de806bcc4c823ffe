"""A fuzzing campaign: cases in, deduplicated findings out, and what is seen on the way decides what is tried.

A campaign goes in generations of a fixed number of iterations. The first iterations are the seed cases
unchanged; every later one mutates a case that its generation chose, with a generator of its own.
Generation `g` chooses by what generations up to `g - 2` showed, so that `g` can run while `g - 1` is judged,
and its cases depend on the campaign alone: not on how many processes or machines share the work, nor on where
it was interrupted.
"""

from __future__ import annotations

import gc
import math
import pickle
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Protocol

from acpitk.checks.finding import Finding, Severity
from acpitk.fuzz import feedback, raw
from acpitk.fuzz.feedback import Feedback, Known, News
from acpitk.fuzz.minimise import minimise
from acpitk.fuzz.mutators import mutate, sealed
from acpitk.fuzz.pools import Pending, Pool, pool
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
        behaviour: names the decisions that a case led to, see `checks.behaviour`; asked right after `check`,
            unless that raised. None names nothing.
        minimise_seconds: nor is it asked any more after this long; None is no limit. For judges whose answers
            hang on time anyway.
        novel: it sees only the cases that show a decision for the first time, as the judges before it named
            them, and every `_PAIRS`-th of those that show two together for the first time.
        ahead: told all the cases of a shard that `check` will be asked about, before the first one.
        guide: a cheap forecast of what the judge says. Cases of one forecast are tried first when a case is
            made smaller, without asking the judge; None forecasts nothing.
        way: names how `check` judged the case, asked right after it; None where it is all the same.
    """

    name: str
    check: Callable[[Case], Iterable[Finding]]
    every: int = 1
    deliverable: bool = False
    minimise_budget: int = 400
    minimise_seconds: float | None = None
    behaviour: Callable[[Case], frozenset[str]] | None = None
    novel: bool = False
    ahead: Callable[[Sequence[Case]], None] | None = None
    guide: Callable[[Case], str | None] | None = None
    way: Callable[[Case], str | None] | None = None


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
        ways: how often each of `Oracle.way` was gone.
        mutators: how often each mutator was applied, by name.
        found: one per signature, in signature order.
        behaviours: how many different ones there were.
        decisions: how many different decisions these were made of.
        pairs: how many pairs of decisions came up together.
        recalled: this was done in an earlier run and comes from the journal.
    """

    done: int = 0
    seconds: float = 0.0
    runs: Mapping[str, int] = field(default_factory=dict)
    ways: Mapping[str, int] = field(default_factory=dict)
    mutators: Mapping[str, int] = field(default_factory=dict)
    found: tuple[Found, ...] = ()
    behaviours: int = 0
    decisions: int = 0
    pairs: int = 0
    recalled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What to fuzz, with what, for how long.

    Args:
        seed: everything random follows from it.
        iterations: how many cases to try; None is without end.
        oracles: the judges.
        seeds: cases to begin with, unchanged, and to mutate later.
        pool: how many base cases hypothesis draws besides.
        guided: cases that were news are mutated again; otherwise only the base cases are.
        generation: iterations between two looks at what was seen; few where oracles are slow.
        max_seconds: stop early after this long, once something was done; what is found then depends on the
            machine's speed.
        shard: iterations between two progress reports, and what one worker takes at a time, at most; few
            where oracles are slow. It has no influence on what is found.
    """

    seed: int
    iterations: int | None
    oracles: tuple[Oracle, ...]
    seeds: tuple[Case, ...] = ()
    pool: int = 64
    guided: bool = True
    generation: int = 256
    max_seconds: float | None = None
    shard: int = 256

    def bases(self) -> tuple[Case, ...]:
        """The cases there are before any was tried: the seeds, then the drawn ones."""
        return self.seeds + draw_cases(self.seed, self.pool)

    def case(self, index: int) -> tuple[Case, tuple[str, ...]]:
        """The case of iteration `index` where nothing guides, and the names of the mutators that made it."""
        if index < len(self.seeds):
            return self.seeds[index], ()
        rng = Random(f"{self.seed}:base {index}")
        return self.mutated(index, rng.choice(self.bases()), rng)

    def mutated(self, index: int, base: Case, rng: Random | None = None) -> tuple[Case, tuple[str, ...]]:
        """What iteration `index` makes of a base case, and the names of the mutators that made it.

        Args:
            rng: one to seed anew, which takes half as long as making one.
        """
        seed = _stream(self.seed) + index
        if rng is None:
            rng = Random(seed)
        else:
            rng.seed(seed)
        return mutate(base, rng, rounds=rng.choice(_ROUNDS))

    def run(
        self, *, jobs: int = 1, cluster: str | None = None, journal: Journal | None = None
    ) -> Generator[CampaignResult, None, None]:
        """Run, yielding the result so far every few iterations; the last one is complete and minimised.

        Whoever stops listening early has lost at most the last few iterations. Apart from `seconds`, the
        results depend on the campaign alone, not on `jobs` or `cluster`, nor on interruptions with a journal.

        Args:
            jobs: processes.
            cluster: instead of them the dask scheduler at this address, or `local:N`.
            journal: what was done before is taken from here and not done again; what is done goes there.

        Raises:
            ToolError: a worker process died, or there is no cluster.
        """
        progress = _Progress(self)
        if journal is not None:
            for part in journal.parts():
                progress.add(part)
                yield replace(progress.result(), seconds=part.seconds, recalled=True)
        shared = replace(self, seeds=(), pool=0)
        with _rare_collections(), pool(shared, jobs=jobs, cluster=cluster) as workers:
            for part in self._parts(progress, workers):
                progress.add(part)
                if journal is not None:
                    journal.append(replace(part, seconds=progress.seconds))
                yield progress.result()
            known = {} if journal is None else journal.minimised()
            for smaller in minimised(progress.found, known, workers):
                progress.found[smaller.finding.signature] = smaller
                if journal is not None and smaller.finding.signature not in known:
                    journal.add_minimised(smaller, progress.seconds)
                yield progress.result()
        yield progress.result()

    def _parts(self, progress: _Progress, workers: Pool) -> Iterator[Part]:
        """The shards that are left, worked on side by side, in order."""
        waiting: deque[Pending] = deque()
        at = progress.done
        while True:
            count = workers.workers
            while len(waiting) < _ahead(count) and (shard := progress.shard(at, count)) is not None:
                waiting.append(workers.submit(_run_shard, shard))
                at += len(shard.bases)
            over = self.max_seconds is not None and progress.seconds >= self.max_seconds
            if not waiting or (over and progress.done):
                return
            yield waiting.popleft().result()


_PAIRS = 8
"""Of the cases that are news only by what came together, every so-many-th is shown to a costly judge."""
_ROUNDS = (1, 1, 1, 2, 2, 3, 4, 6)
"""How many mutations in a row, by chance."""
_COLLECT_AFTER = 50_000
"""New objects between two looks for garbage."""
_LAG = 2
"""A generation chooses by what was seen up to this many generations before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Iterations for one worker.

    Args:
        start: the first one.
        bases: the case to mutate, for each.
        unchanged: so many of them are not mutated.
        known: `Known` and the best cases of the findings so far, pickled; only what is news to it comes back.
    """

    start: int
    bases: tuple[Case, ...]
    unchanged: int
    known: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What came of a shard.

    Args:
        start, stop: its iterations.
        runs, mutators, ways: as in `CampaignResult`.
        hits: decision -> cases that led to it.
        signatures: `feedback.signature` of every behaviour there was.
        news: the cases that showed something new.
        counts: finding signature -> cases that had it.
        found: the best case of each finding, where it is new, better, or names another kernel.
        seconds: of the campaign up to its end.
    """

    start: int
    stop: int
    runs: Mapping[str, int]
    mutators: Mapping[str, int]
    hits: Mapping[str, int] = field(default_factory=dict)
    signatures: tuple[int, ...] = ()
    news: tuple[News, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    found: tuple[Found, ...] = ()
    seconds: float = 0.0
    ways: Mapping[str, int] = field(default_factory=dict)


class Journal(Protocol):
    """Keeps what was done, in order, for a campaign that goes on after an interruption."""

    def parts(self) -> Iterable[Part]:
        """What was appended, in order."""

    def append(self, part: Part) -> None:
        """Keep a part; when this returns, it is kept."""

    def minimised(self) -> Mapping[str, Found]:
        """What was minimised, by signature."""

    def add_minimised(self, found: Found, seconds: float) -> None:
        """Keep a finding that the minimiser is through with."""


class _Progress:
    """A campaign under way: what its parts add up to, and what the generations to come will try."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign, self._bases = campaign, campaign.bases()
        self._started = time.monotonic()
        self._before = 0.0
        self._runs: Counter[str] = Counter()
        self._ways: Counter[str] = Counter()
        self._mutators: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._feedback = Feedback(self._bases)
        self._planned: dict[int, tuple[list[Case], bytes]] = {}
        self.done = 0
        self.found: dict[str, Found] = {}
        for generation in range(_LAG):
            self._plan(generation)

    @property
    def seconds(self) -> float:
        """Wall time, that of earlier runs included."""
        return self._before + time.monotonic() - self._started

    def _plan(self, generation: int) -> None:
        campaign = self._campaign
        start = generation * campaign.generation
        if campaign.guided:
            rng = Random(f"{campaign.seed}:generation {generation}")
            chosen = self._feedback.choose(rng, campaign.generation)
        else:
            iterations = range(start, start + campaign.generation)
            chosen = [Random(f"{campaign.seed}:base {i}").choice(self._bases) for i in iterations]
        best = {signature: (complexity(each.case), each.kernels) for signature, each in self.found.items()}
        for index in range(start, min(start + campaign.generation, len(campaign.seeds))):
            chosen[index - start] = campaign.seeds[index]
        self._planned[generation] = chosen, pickle.dumps((self._feedback.known, best))

    def shard(self, start: int, workers: int) -> Shard | None:
        """Iterations from `start` for one worker; None where they cannot begin or there are none left."""
        campaign = self._campaign
        generation, offset = divmod(start, campaign.generation)
        share = -(-campaign.generation * _LAG // _ahead(workers))
        size = min(campaign.shard, share, campaign.generation - offset)
        if campaign.iterations is not None:
            size = min(size, campaign.iterations - start)
        if size <= 0 or generation not in self._planned:
            return None
        chosen, known = self._planned[generation]
        return Shard(
            start=start,
            bases=tuple(chosen[offset : offset + size]),
            unchanged=max(0, len(campaign.seeds) - start),
            known=known,
        )

    def add(self, part: Part) -> None:
        """Take in the next part."""
        self.done = part.stop
        self._before = max(self._before, part.seconds)
        self._runs.update(part.runs)
        self._ways.update(part.ways)
        self._mutators.update(part.mutators)
        self._feedback.count(part.hits, part.signatures)
        for news in part.news:
            self._feedback.learn(news)
        for each in part.found:
            keep(self.found, each)
        self._counts.update(part.counts)
        generation, left = divmod(part.stop, self._campaign.generation)
        if not left:
            self._planned.pop(generation - 1, None)
            self._plan(generation - 1 + _LAG)

    def result(self) -> CampaignResult:
        """The result so far."""
        return CampaignResult(
            done=self.done,
            seconds=self.seconds,
            runs=dict(self._runs),
            ways=dict(self._ways),
            mutators=dict(self._mutators),
            found=tuple(replace(each, count=self._counts[name]) for name, each in sorted(self.found.items())),
            behaviours=len(self._feedback.signatures),
            decisions=len(self._feedback.known.decisions),
            pairs=self._feedback.pairs,
        )


@contextmanager
def _rare_collections() -> Iterator[None]:
    """The collector of garbage leaves what there is alone, and looks less often: cases leave few cycles.

    Worker processes that are forked inherit this.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _ahead(workers: int) -> int:
    """How many pieces of work are handed out before the first is taken back."""
    return 1 if workers == 1 else 3 * workers


@lru_cache
def _stream(seed: int) -> int:
    """Where the seeds of a campaign's iterations begin: quicker than a text for each."""
    return int.from_bytes(blake2b(str(seed).encode(), digest_size=32).digest(), "little")


def _ask(oracle: Oracle, case: Case) -> tuple[list[Finding], frozenset[str]]:
    """What the oracle finds, and the decisions it names."""
    try:
        found = list(oracle.check(case))
        return found, frozenset() if oracle.behaviour is None else oracle.behaviour(case)
    except Exception as error:
        return [oracle_error(oracle.name, error)], frozenset()


def judgement(oracle: Oracle, case: Case) -> list[Finding]:
    """What the oracle finds; what it raises is a finding."""
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


@lru_cache(maxsize=2)
def _unpickled(known: bytes) -> tuple[Known, dict[str, tuple[tuple[int, int], tuple[str, ...]]]]:
    # Written by `_Progress` of the same campaign.
    out: tuple[Known, dict[str, tuple[tuple[int, int], tuple[str, ...]]]] = pickle.loads(known)  # noqa: S301
    return out


def _run_shard(campaign: Campaign, shard: Shard) -> Part:
    known, best = _unpickled(shard.known)
    runs: Counter[str] = Counter()
    ways: Counter[str] = Counter()
    rng = Random()
    applied: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    found: dict[str, Found] = {}
    news: dict[frozenset[str], News | None] = {}
    tried: list[tuple[Case, tuple[str, ...]]] = [
        (case, ()) if index < shard.start + shard.unchanged else campaign.mutated(index, case, rng)
        for index, case in enumerate(shard.bases, shard.start)
    ]
    for oracle in campaign.oracles:
        if oracle.ahead is not None:
            oracle.ahead([case for i, (case, _) in enumerate(tried, shard.start) if not i % oracle.every])
    for index, (case, names) in enumerate(tried, shard.start):
        applied.update(names)
        behaviour: frozenset[str] = frozenset()
        for oracle in campaign.oracles:
            if index % oracle.every or (oracle.novel and not _is_novel(behaviour, index, known)):
                continue
            runs[oracle.name] += 1
            judged = sealed(case) if oracle.deliverable else case
            findings, shown = _ask(oracle, judged)
            if oracle.way is not None and (way := oracle.way(judged)) is not None:
                ways[way] += 1
            behaviour |= shown
            size = _size(judged) if findings else 0
            for signature, finding in {f.signature: f for f in findings}.items():
                counts[signature] += 1
                if _may_be_better(finding, judged, size, best.get(signature)):
                    new = Found(
                        finding=finding,
                        case=judged,
                        oracle=oracle.name,
                        iteration=index,
                        mutators=names,
                        count=0,
                        kernels=finding.kernels,
                    )
                    keep(found, new)
        if behaviour:
            hits.update(behaviour)
            if behaviour not in news:
                fresh = known.has_news(behaviour)
                news[behaviour] = (
                    News(iteration=index, behaviour=behaviour, case=case, mutators=names) if fresh else None
                )
    return Part(
        start=shard.start,
        stop=shard.start + len(shard.bases),
        runs=runs,
        ways=ways,
        mutators=applied,
        hits=hits,
        signatures=tuple(map(feedback.signature, news)),
        news=tuple(each for each in news.values() if each is not None),
        counts=counts,
        found=tuple(found.values()),
    )


def _is_novel(behaviour: frozenset[str], index: int, known: Known) -> bool:
    """Whether a costly judge should see the case: see `Oracle.novel`. Where nothing was named, it should."""
    unheard = not behaviour or any(name not in known.decisions for name in behaviour)
    return unheard or (index % _PAIRS == 0 and known.has_news(behaviour))


def _may_be_better(
    finding: Finding, case: Case, size: int, best: tuple[tuple[int, int], tuple[str, ...]] | None
) -> bool:
    """Whether a finding's best case so far, if any, may give way to this one, or its kernels grow."""
    if best is None or (finding.kernels != best[1] and not set(finding.kernels) <= set(best[1])):
        return True
    return (best[0][0] > 0 or size < best[0][1]) and complexity(case) < best[0]


def keep(found: dict[str, Found], new: Found) -> None:
    """Add `new`; of two with one signature the simpler case stays, and of equal ones the earlier."""
    signature = new.finding.signature
    if (old := found.get(signature)) is not None:
        best = min(old, new, key=lambda each: (complexity(each.case), each.iteration))
        kernels = tuple(sorted({*old.kernels, *new.kernels}))
        new = best if best.kernels == kernels else replace(best, kernels=kernels)
    found[signature] = new


def _size(case: Case) -> int:
    return sum(map(len, case.tables)) + len(case.cmdline)


@lru_cache(maxsize=4096)
def complexity(case: Case) -> tuple[int, int]:
    """Damaged tables, then bytes: a sound table says more about a cause than a shorter damaged one."""
    srats = [table for table in case.tables if table[:4] == b"SRAT"]
    damaged = sum(len(table) < raw.FIXED_SIZE or raw.cut(table).tail != b"" for table in srats)
    damaged += sealed(case) != case
    return damaged, _size(case)


def minimised(found: Mapping[str, Found], known: Mapping[str, Found], workers: Pool) -> Iterator[Found]:
    """Every finding with its case made smaller, in signature order; those already `known` as they are."""
    waiting: deque[Found | Pending] = deque()
    for signature in sorted(found):
        waiting.append(known.get(signature) or workers.submit(_minimise, found[signature]))
        if len(waiting) >= _ahead(workers.workers):
            yield _done(waiting.popleft())
    while waiting:
        yield _done(waiting.popleft())


def _done(minimised: Found | Pending) -> Found:
    if isinstance(minimised, Found):
        return minimised
    found: Found = minimised.result()
    return found


def _minimise(campaign: Campaign, found: Found) -> Found:
    oracle = next(oracle for oracle in campaign.oracles if oracle.name == found.oracle)
    signature = found.finding.signature

    def judge(case: Case) -> Finding | None:
        return next((f for f in judgement(oracle, case) if f.signature == signature), None)

    until = math.inf if oracle.minimise_seconds is None else time.monotonic() + oracle.minimise_seconds

    def shows(case: Case) -> bool:
        if time.monotonic() > until or (oracle.deliverable and sealed(case) != case):
            return False
        return judge(case) is not None

    case = minimise(found.case, shows, budget=oracle.minimise_budget, guide=oracle.guide)
    finding = found.finding if case == found.case else judge(case)
    return found if finding is None else replace(found, case=case, finding=finding, minimised=True)
