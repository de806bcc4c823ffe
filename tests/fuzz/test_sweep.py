"""A sweep finds what judging each of its cases would, in however many processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from acpitk.checks.differential import compare
from acpitk.checks.differential import findings as differences
from acpitk.checks.finding import Finding
from acpitk.fuzz.campaign import Campaign, CampaignResult, Oracle, judgement
from acpitk.fuzz.sweep import BATCH, Sift, sweep
from acpitk.kernel.boot import boot
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Case

OLD, NEW = POLICIES["v6.1"], POLICIES["v6.12"]


def two_rows(case: Case) -> list[Finding]:
    return differences(compare(boot(case, OLD), boot(case, NEW)))


def differing(cases: Sequence[Case]) -> list[int]:
    """The numbers of the cases whose zones differ: the others are to be passed over."""
    return [n for n, case in enumerate(cases) if boot(case, OLD).zones != boot(case, NEW).zones]


def everything(cases: Sequence[Case]) -> list[int]:
    return list(range(len(cases)))


def fails(case: Case) -> list[Finding]:
    raise KeyError(len(case.tables))


ORACLE = Oracle(name="rows", check=two_rows)
CAMPAIGN = Campaign(seed=5, iterations=BATCH + 77, oracles=(ORACLE,))


def last(campaign: Campaign, sift: Sift, *, jobs: int = 1) -> CampaignResult:
    *_, result = sweep(campaign, sift, jobs=jobs)
    return result


def tried() -> list[Case]:
    """The cases of `CAMPAIGN`, drawn by hand: bases by batch, mutations by iteration."""
    bases, cases = CAMPAIGN.bases(), []
    for start, stop in ((0, BATCH), (BATCH, BATCH + 77)):
        rng = Random(f"{CAMPAIGN.seed}:bases from {start}")
        cases += [CAMPAIGN.mutated(index, rng.choice(bases))[0] for index in range(start, stop)]
    return cases


@pytest.fixture(scope="module")
def sifted() -> CampaignResult:
    return last(CAMPAIGN, differing)


def test_each_case_is_judged_once_where_it_is_of_interest(sifted: CampaignResult) -> None:
    cases = tried()
    numbers = differing(cases)
    counts = Counter(each.signature for n in numbers for each in judgement(ORACLE, cases[n]))
    assert sifted.done == len(cases) == CAMPAIGN.iterations
    assert sifted.runs == {"rows": len(numbers)}
    assert {each.finding.signature: each.count for each in sifted.found} == counts
    assert counts


def test_what_is_found_does_not_depend_on_the_processes(sifted: CampaignResult) -> None:
    assert last(CAMPAIGN, differing, jobs=2).found == sifted.found


def test_a_found_case_shows_what_was_found(sifted: CampaignResult) -> None:
    for each in sifted.found:
        assert each.minimised
        assert each.finding.signature in {finding.signature for finding in two_rows(each.case)}


def test_without_a_sift_every_case_is_judged() -> None:
    result = last(replace(CAMPAIGN, iterations=60), everything)
    assert result.runs == {"rows": 60}


def test_what_the_judge_raises_is_a_finding() -> None:
    campaign = replace(CAMPAIGN, iterations=20, oracles=(Oracle(name="bad", check=fails),))
    result = last(campaign, everything)
    assert {each.finding.id for each in result.found} == {"FUZZ-ORACLE-ERROR"}
    assert sum(each.count for each in result.found) == 20


def test_time_ends_a_sweep_without_end() -> None:
    result = last(replace(CAMPAIGN, iterations=None, max_seconds=0.2), lambda cases: [])
    assert result.done % BATCH == 0
    assert result.found == ()
