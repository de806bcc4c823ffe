"""How fast one core fuzzes, and where the time goes: `python tests/benchmarks/bench_fuzz.py [ITERATIONS]`.

Run by hand. Every figure is CPU time of one run over the same cases, so the shares can be compared between
machines; the absolute ones cannot. Where `make compiled` has been run, the compiled build is timed as well,
in turns with the plain one, and stands beside it.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from acpitk.checks import invariants
from acpitk.checks.behaviour import behaviour
from acpitk.corpus import load_corpus
from acpitk.errors import DecodeError
from acpitk.fuzz.campaign import Campaign, Oracle
from acpitk.fuzz.strategies import draw_cases
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Case
from acpitk.tables.srat import Srat, decode_srat, encode_srat

ROOT = Path(__file__).resolve().parents[2]
COMPILED = ROOT / ".venv-compiled" / "bin" / "python"
SEEDS = tuple(s.case for _, s in load_corpus(ROOT / "corpus").cases)
POLICY = POLICIES["v6.1"]
TURNS = 3
CAMPAIGN = "campaign"
T = TypeVar("T")


def timed(task: Callable[[T], object], items: Iterable[T]) -> float:
    """The CPU seconds `task` takes for all items; results are dropped, as a campaign drops them.

    Kept, they would make the collector of garbage go through ever more of them.
    """
    started = time.process_time()
    for item in items:
        task(item)
    return time.process_time() - started


def decoded(case: Case) -> Srat | None:
    """The case's SRAT, where it decodes."""
    try:
        return decode_srat(case.table(b"SRAT") or b"")
    except DecodeError:
        return None


def stages(iterations: int) -> dict[str, float]:
    """Microseconds an iteration takes in each stage, over the same cases, and in the whole campaign."""
    campaign = Campaign(seed=1, iterations=iterations, seeds=SEEDS, oracles=())
    draw_cases.cache_clear()
    draw = timed(lambda _: campaign.bases(), [None])
    mutate = timed(campaign.case, range(iterations))
    cases = [campaign.case(index)[0] for index in range(iterations)]
    decode = timed(decoded, cases)
    srats = [srat for srat in map(decoded, cases) if srat is not None]
    encode = timed(encode_srat, srats)
    model = timed(lambda case: predict(case, POLICY), cases)
    gc.collect()
    predictions = [predict(case, POLICY) for case in cases]
    gc.freeze()
    check = timed(lambda pair: invariants.check(*pair), zip(cases, predictions, strict=True))
    behave = timed(behaviour, predictions)

    oracle = Oracle(
        name="policy", check=lambda case: invariants.check(case, predict(case, POLICY)), minimise_budget=0
    )
    whole = Campaign(seed=1, iterations=iterations, seeds=SEEDS, oracles=(oracle,))
    all_seconds = timed(lambda campaign: list(campaign.run()), [whole])
    seconds = {
        f"draw {campaign.pool} base cases, once": draw,
        "mutate": mutate,
        "decode": decode,
        "encode": encode,
        "model": model,
        "checks": check,
        "behaviour": behave,
        CAMPAIGN: all_seconds,
    }
    return {name: value / iterations * 1e6 for name, value in seconds.items()}


def of_build(python: str | Path, iterations: int) -> dict[str, float]:
    """`stages` of one build, in a process of its own."""
    argv = [str(python), __file__, str(iterations), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=600)
    out: dict[str, float] = json.loads(done.stdout)
    return out


def main(iterations: int) -> None:
    """Time the builds in turns and print the best time of each stage."""
    plain = sys.executable
    builds = {"plain": plain, "compiled": COMPILED} if COMPILED.exists() else {"plain": plain}
    turns = [{name: of_build(python, iterations) for name, python in builds.items()} for _ in range(TURNS)]
    best = {
        build: {stage: min(turn[build][stage] for turn in turns) for stage in turns[0][build]}
        for build in builds
    }
    print(f"{iterations} iterations on one core, us/iteration, best of {TURNS}")
    print(f"  {'':27}" + "".join(f"{build:>17}" for build in builds))
    for stage in best["plain"]:
        if stage == CAMPAIGN:
            continue
        row = []
        for times in best.values():
            total = sum(value for name, value in times.items() if name != CAMPAIGN)
            row.append(f"{times[stage]:10.1f} {times[stage] / total:6.1%}")
        print(f"  {stage:27}" + "".join(row))
    for build, times in best.items():
        # A campaign decodes nothing; the mutators cut and join bytes.
        loop = sum(value for name, value in times.items() if name not in (CAMPAIGN, "decode", "encode"))
        print(f"{build}: {1e6 / loop:.0f} iterations/s by parts, {1e6 / times[CAMPAIGN]:.0f} as a campaign")


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    count = int(arguments[0]) if arguments else 10000
    if "--json" in sys.argv:
        print(json.dumps(stages(count)))
    else:
        main(count)
