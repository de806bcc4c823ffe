"""What one case of `acpitk diff --oracle model NAME` costs: CPU time of both processes, in microseconds.

`python tests/benchmarks/oracle_rate.py NAME [CASES]`.
CPU time, because wall time says little on a shared machine.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from random import Random

from acpitk.fuzz.campaign import Campaign
from acpitk.fuzz.sweep import BATCH
from acpitk.kernel.boot import zones_of
from acpitk.kernel.policy import POLICIES
from acpitk.oracle.judge import large_slit
from acpitk.oracle.outcome import same
from acpitk.oracle.store import find_oracle


def main() -> None:
    build = find_oracle(sys.argv[1])
    batches = int(sys.argv[2] if len(sys.argv) > 2 else 20480) // BATCH
    campaign = Campaign(seed=3, iterations=None, oracles=())
    bases, rng, policy = campaign.bases(), Random(3), POLICIES[build.row]
    spent = dict.fromkeys(("draw and mutate", "model", "encode and read", "compare"), 0.0)
    gc.freeze()
    gc.disable()
    with build.worker() as worker:
        worker.ask_many(bases)
        stat = Path(f"/proc/{worker.pid}/schedstat")
        before = int(stat.read_text().split()[0])
        asked = unequal = 0
        for start in range(0, batches * BATCH, BATCH):
            clock = [time.process_time()]
            cases = [campaign.mutated(i, rng.choice(bases))[0] for i in range(start, start + BATCH)]
            clock.append(time.process_time())
            predictions = [zones_of(case, policy) for case in cases]
            clock.append(time.process_time())
            small = [i for i, case in enumerate(cases) if not large_slit(case)]
            reports = worker.ask_many([cases[i] for i in small])
            clock.append(time.process_time())
            unequal += sum(not same(predictions[i], report) for i, report in zip(small, reports, strict=True))
            clock.append(time.process_time())
            asked += len(small)
            for name, one, other in zip(spent, clock, clock[1:], strict=False):
                spent[name] += other - one
        spent["worker"] = (int(stat.read_text().split()[0]) - before) / 1e9
    total = batches * BATCH
    for name, seconds in spent.items():
        print(f"{name:16} {seconds / total * 1e6:7.1f}")
    every = sum(spent.values())
    print(
        f"{total} cases, {asked} asked, {unequal} not equal at once: {total / every:.0f} cases/s of one core"
    )


if __name__ == "__main__":
    main()
