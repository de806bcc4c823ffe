"""The oracle against real boots of fuzzed cases: `python tests/oracle/against_boots.py NAME [BOOTS] [SEED]`.

Needs QEMU, the fetched kernel NAME and its oracle. Prints, for every field, boots that agree, differ, or did
not observe it, and every case that differs. Exit status 1: some do.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

from acpitk.checks.differential import Verdict, compare
from acpitk.fuzz.campaign import Campaign
from acpitk.oracle.judge import Judge, large_slit
from acpitk.oracle.store import find_oracle
from acpitk.qemu.boots import Boots, unbootable
from acpitk.qemu.image import find_kernel
from acpitk.qemu.runner import Marker

TIMEOUT = 60.0


def main() -> int:
    name = sys.argv[1]
    wanted = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    campaign = Campaign(seed=int(sys.argv[3]) if len(sys.argv) > 3 else 1, iterations=None, oracles=())
    judge = Judge(find_oracle(name))
    verdicts: Counter[tuple[str, str]] = Counter()
    ways: Counter[str] = Counter()
    differing = index = 0
    with Boots(find_kernel(name)) as boots:
        while ways.total() < wanted:
            case, _ = campaign.case(index)
            index += 1
            if unbootable(case) or large_slit(case):
                continue
            booted = boots.boot(case, timeout=TIMEOUT, marker=Marker.ZONES)
            ways[booted.via.value] += 1
            comparison = compare(judge.outcome_of(judge.report(case), case), booted.outcome())
            verdicts.update((field, verdict.value) for field, verdict in comparison.fields.items())
            if not comparison.agrees:
                differing += 1
                print(json.dumps(case.to_json()))
                for difference in comparison.differences:
                    print("  ", difference)
    print(f"{name}: {ways.total()} boots ({dict(ways)}) of {index} cases, {differing} differ")
    for field in dict.fromkeys(field for field, _ in verdicts):
        print(f"{field:20}", *(f"{verdict.value} {verdicts[field, verdict.value]}" for verdict in Verdict))
    return int(differing > 0)


if __name__ == "__main__":
    raise SystemExit(main())
