"""What guidance is worth: `python tests/benchmarks/bench_guided.py [ITERATIONS]`.

Run by hand. Guided and unguided campaigns over the same seeds, three seeds each, then the engine against a
plain `@given` loop over the public strategies, all in one run and on one core. Behaviours are those of the
v6.1 row of the model; times are CPU time, so only their ratios can be compared between machines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed

from acpitk.cli.oracles import model_oracle
from acpitk.corpus import load_corpus
from acpitk.fuzz.campaign import Campaign
from acpitk.fuzz.feedback import Known, signature
from acpitk.fuzz.strategies import cases
from acpitk.machine import Case

SHIPPED = tuple(s.case for _, s in load_corpus(Path(__file__).resolve().parents[2] / "corpus").cases)
ORACLE = replace(model_oracle(["v6.1"]), minimise_budget=0)
SEEDS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Point:
    """How far a run is: CPU seconds, different behaviours, decisions, pairs of decisions, and findings."""

    done: int
    seconds: float
    behaviours: int
    decisions: int
    pairs: int
    findings: int


def engine(seed: int, iterations: int, *, guided: bool, seeds: tuple[Case, ...] = SHIPPED) -> Iterator[Point]:
    """A campaign, observed after every part."""
    campaign = Campaign(seed=seed, iterations=iterations, oracles=(ORACLE,), seeds=seeds, guided=guided)
    campaign.bases()
    started = time.process_time()
    for result in campaign.run():
        seconds = time.process_time() - started
        numbers = result.behaviours, result.decisions, result.pairs, len(result.found)
        yield Point(result.done, seconds, *numbers)


def plain(seed: int, iterations: int) -> Iterator[Point]:
    """What hypothesis alone does with the same strategies and the same judge."""
    known, behaviours, findings, points = Known(), set[int](), set[str](), list[Point]()
    pairs = 0
    started = time.process_time()

    @hypothesis_seed(seed)
    @settings(
        max_examples=iterations,
        phases=(Phase.generate,),
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def judge(case: Case) -> None:
        nonlocal pairs
        findings.update(finding.signature for finding in ORACLE.check(case))
        assert ORACLE.behaviour is not None
        shown = ORACLE.behaviour(case)
        pairs += known.learn(shown)
        behaviours.add(signature(shown))
        done, seconds = (points[-1].done + 1 if points else 1), time.process_time() - started
        points.append(Point(done, seconds, len(behaviours), len(known.decisions), pairs, len(findings)))

    judge()
    yield from points


def table(title: str, iterations: int, runs: dict[str, list[list[Point]]]) -> None:
    """Means over the seeds at an eighth, a quarter, a half and all of the iterations."""
    print(f"\n{title}")
    print(f"{'':22} {'iterations':>10} {'behaviours':>10} {'decisions':>9} {'pairs':>7} {'findings':>8}")
    for name, seeds in runs.items():
        for part in (8, 4, 2, 1):
            at = [next(p for p in points if p.done >= iterations // part) for points in seeds]
            shown = [
                sum(getattr(p, what) for p in at) / len(at)
                for what in ("done", "behaviours", "decisions", "pairs", "findings")
            ]
            print(
                f"{name:22} {shown[0]:10.0f} {shown[1]:10.0f} {shown[2]:9.0f} {shown[3]:7.0f} {shown[4]:8.1f}"
            )


def speeds(runs: dict[str, list[list[Point]]]) -> None:
    """Iterations a second and, in the time the quickest run took, what each found a minute."""
    common = min(points[-1].seconds for seeds in runs.values() for points in seeds)
    print(f"\nof the first {common:.1f} s of CPU time of each run")
    print(
        f"{'':22} {'iterations/s':>12} {'behaviours/min':>14} {'decisions':>9} {'pairs':>7} {'findings':>8}"
    )
    for name, seeds in runs.items():
        at = [[p for p in points if p.seconds <= common][-1] for points in seeds]
        done, behaviours, decisions, pairs, findings = (
            sum(getattr(p, what) for p in at) / len(at)
            for what in ("done", "behaviours", "decisions", "pairs", "findings")
        )
        rates = f"{done / common:12.0f} {behaviours / common * 60:14.0f}"
        print(f"{name:22} {rates} {decisions:9.0f} {pairs:7.0f} {findings:8.1f}")


def main(iterations: int) -> None:
    """Run everything and print the tables."""
    guided = {
        name: [list(engine(seed, iterations, guided=yes)) for seed in SEEDS]
        for name, yes in (("unguided", False), ("guided", True))
    }
    table(f"The shipped corpus to begin with; means of seeds {SEEDS}", iterations, guided)
    for seed, without, with_ in zip(SEEDS, guided["unguided"], guided["guided"], strict=True):
        one, other = without[-1], with_[-1]
        print(
            f"seed {seed}: behaviours {one.behaviours} -> {other.behaviours}, "
            f"decisions {one.decisions} -> {other.decisions}, pairs {one.pairs} -> {other.pairs}"
        )
    few = iterations // 4
    compared = {
        "@given": [list(plain(seed, few)) for seed in SEEDS],
        "engine, unguided": [list(engine(seed, iterations, guided=False, seeds=())) for seed in SEEDS],
        "engine, guided": [list(engine(seed, iterations, guided=True, seeds=())) for seed in SEEDS],
    }
    table(f"Drawn cases alone to begin with, {few} iterations", few, compared)
    speeds(compared)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
