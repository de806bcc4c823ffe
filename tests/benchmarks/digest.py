"""One digest of everything the model and the checks say of a seeded campaign, on every policy row.

`python tests/benchmarks/digest.py [ITERATIONS] [SEED] [--each FILE]`. Two builds of one source must print the
same, and so must the code before and after a change that is to make nothing but time of it. `--each` writes
one line for each iteration and row, to find the first that differs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from acpitk.checks import invariants
from acpitk.checks.behaviour import behaviour
from acpitk.corpus import load_corpus
from acpitk.fuzz.campaign import Campaign
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES

SEEDS = tuple(s.case for _, s in load_corpus(Path(__file__).resolve().parents[2] / "corpus").cases)


def digests(iterations: int, seed: int) -> Iterator[tuple[int, str, str]]:
    """(iteration, policy row, digest of the case, its prediction, findings and behaviour)."""
    campaign = Campaign(seed=seed, iterations=iterations, seeds=SEEDS, oracles=())
    for index in range(iterations):
        case, mutators = campaign.case(index)
        for name, policy in POLICIES.items():
            prediction = predict(case, policy)
            said = (
                case,
                mutators,
                prediction,
                invariants.check(case, prediction),
                sorted(behaviour(prediction)),
            )
            yield index, name, sha256(repr(said).encode()).hexdigest()


def main(iterations: int, seed: int, each: Path | None) -> None:
    """Print the digest of them all."""
    lines = [f"{index} {name} {digest}\n" for index, name, digest in digests(iterations, seed)]
    if each is not None:
        each.write_text("".join(lines))
    print(sha256("".join(lines).encode()).hexdigest())


if __name__ == "__main__":
    arguments = sys.argv[1:]
    file = Path(arguments.pop(arguments.index("--each") + 1)) if "--each" in arguments else None
    numbers = [int(argument) for argument in arguments if argument != "--each"]
    main(*(numbers + [3000, 1][len(numbers) :]), file)
