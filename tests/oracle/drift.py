"""Replays between hostile cases: `python tests/oracle/drift.py NAME [REPLAYS]`; status 1 for a change."""

from __future__ import annotations

import sys
from pathlib import Path

from acpitk.fuzz.campaign import Campaign
from acpitk.oracle.judge import large_slit
from acpitk.oracle.store import find_oracle


def main() -> int:
    replays = int(sys.argv[2]) if len(sys.argv) > 2 else 20000
    campaign = Campaign(seed=11, iterations=None, oracles=())
    cases = [case for i in range(300) if not large_slit(case := campaign.case(i)[0])]
    kept, hostile = cases[:40], cases[40:]
    changed = done = 0
    sizes = []
    with find_oracle(sys.argv[1]).worker() as worker:
        first = [worker.ask(case) for case in kept]
        pid = worker.pid
        while done < replays:
            for i, case in enumerate(kept):
                worker.ask(hostile[(done + i) % len(hostile)])
                changed += worker.ask(case) != first[i]
            done += len(kept)
            if done % (len(kept) * 100) == 0:
                sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) >> 8)
        alive = worker.pid == pid
    print(f"{done} replays, {changed} changed, same worker: {alive}, MiB resident: {sizes}")
    return int(changed > 0 or not alive)


if __name__ == "__main__":
    raise SystemExit(main())
