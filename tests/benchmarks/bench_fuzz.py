"""How fast one core fuzzes, and where the time goes: `python tests/benchmarks/bench_fuzz.py [ITERATIONS]`.

Run by hand. Every figure is CPU time of one run over the same cases, so the shares can be compared between
machines; the absolute ones cannot.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from acpitk.checks import invariants
from acpitk.corpus import load_corpus
from acpitk.errors import DecodeError
from acpitk.fuzz.campaign import Campaign, Oracle
from acpitk.fuzz.strategies import draw_cases
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Case
from acpitk.tables.srat import Srat, decode_srat, encode_srat

SEEDS = tuple(s.case for _, s in load_corpus(Path(__file__).resolve().parents[2] / "corpus").cases)
POLICY = POLICIES["v6.1"]
T = TypeVar("T")
R = TypeVar("R")


def timed(task: Callable[[T], R], items: Iterable[T]) -> tuple[list[R], float]:
    """What `task` gives for each item, and the CPU seconds that took."""
    started = time.process_time()
    out = [task(item) for item in items]
    return out, time.process_time() - started


def decoded(case: Case) -> Srat | None:
    """The case's SRAT, where it decodes."""
    try:
        return decode_srat(case.table(b"SRAT") or b"")
    except DecodeError:
        return None


def main(iterations: int) -> None:
    """Time each stage over the same cases, then the whole campaign."""
    campaign = Campaign(seed=1, iterations=iterations, seeds=SEEDS, oracles=())
    draw_cases.cache_clear()
    _, draw = timed(lambda _: campaign.bases(), [None])
    cases, mutate = timed(lambda index: campaign.case(index)[0], range(iterations))
    srats, decode = timed(decoded, cases)
    _, encode = timed(encode_srat, (srat for srat in srats if srat is not None))
    predictions, model = timed(lambda case: predict(case, POLICY), cases)
    _, check = timed(lambda pair: invariants.check(*pair), zip(cases, predictions, strict=True))

    oracle = Oracle(
        name="policy", check=lambda case: invariants.check(case, predict(case, POLICY)), minimise_budget=0
    )
    whole = Campaign(seed=1, iterations=iterations, seeds=SEEDS, oracles=(oracle,))
    ((*_, result),), all_seconds = timed(lambda campaign: list(campaign.run()), [whole])

    stages = {
        f"draw {campaign.pool} base cases, once": draw,
        "mutate": mutate,
        "decode": decode,
        "encode": encode,
        "model": model,
        "checks": check,
    }
    total = sum(stages.values())
    print(f"{iterations} iterations on one core")
    for name, seconds in stages.items():
        print(f"  {name:26} {seconds / iterations * 1e6:8.0f} us/iteration {seconds / total:6.1%}")
    print(f"  mutate + encode + decode   {(mutate + encode + decode) / iterations * 1e6:8.0f} us/iteration")
    speed = result.done / all_seconds
    print(f"campaign with model and checks: {speed:.0f} iterations/s, {len(result.found)} causes")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
