"""Laws of campaigns on real kernels; how a case is booted is up to the judge, here the model itself."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import closing
from itertools import pairwise

import pytest

from acpitk.checks.differential import Verdict, compare
from acpitk.checks.replay import Replayed
from acpitk.fuzz.boots import Boot, BootCampaign, Booted, Tally, judged, signatures
from acpitk.fuzz.mutators import sealed
from acpitk.kernel.boot import boot
from acpitk.kernel.policy import POLICIES
from acpitk.klog import MemblockCall
from acpitk.machine import Case
from acpitk.qemu.argv import undeliverable


def _judge(case: Case) -> Boot:
    """5.10's row of the model against 6.12's, as if that were a kernel."""
    comparison = compare(boot(case, POLICIES["v5.10"]), boot(case, POLICIES["v6.12"]))
    return judged(comparison, (), ended="marker", seconds=1.5)


def _same(case: Case) -> Boot:
    outcome = boot(case, POLICIES["v6.1"])
    return judged(compare(outcome, outcome), (), ended="marker", seconds=0.5)


def campaign(*, seed: int = 3, start: int = 0, iterations: int | None = 20) -> BootCampaign:
    return BootCampaign(
        seed=seed,
        judges={"a": _judge, "b": _same},
        deliverable=lambda case: not undeliverable(case),
        start=start,
        iterations=iterations,
    )


def run(of: BootCampaign, *, jobs: int = 1) -> list[Booted]:
    return list(of.run(jobs=jobs, cancel=lambda: None))


def test_a_campaign_is_the_same_every_time_and_with_any_number_of_jobs() -> None:
    assert run(campaign()) == run(campaign()) == run(campaign(), jobs=4)
    assert run(campaign(seed=4)) != run(campaign())


def test_a_campaign_goes_on_where_it_stopped() -> None:
    whole = run(campaign())
    assert run(campaign(iterations=8)) + run(campaign(start=8, iterations=12)) == whole


def test_every_case_meets_every_kernel_in_order_and_can_be_delivered() -> None:
    booted = run(campaign(), jobs=3)
    assert [each.kernel for each in booted] == ["a", "b"] * (len(booted) // 2)
    assert all(one.iteration <= other.iteration for one, other in pairwise(booted))
    assert all(sealed(each.case) == each.case and not undeliverable(each.case) for each in booted)


def test_a_time_limit_ends_an_endless_campaign() -> None:
    endless = campaign(iterations=None)
    assert list(endless.run(jobs=2, max_seconds=0.0, cancel=lambda: None)) == []
    assert list(endless.run(jobs=2, max_seconds=0.5, cancel=lambda: None))


def test_stopping_early_cancels_what_is_under_way() -> None:
    cancelled = threading.Event()

    def slow(case: Case) -> Boot:
        cancelled.wait(30)
        return Boot(ended="cancelled")

    judges = {"quick": lambda case: Boot(ended="marker"), "slow": slow}
    endless = BootCampaign(seed=1, judges=judges, deliverable=lambda case: True)
    with closing(endless.run(jobs=2, cancel=cancelled.set)) as running:
        assert next(running).kernel == "quick"
    assert cancelled.is_set()


def test_a_judge_that_fails_is_a_finding() -> None:
    def broken(case: Case) -> Boot:
        raise ValueError("no judgement")

    found = BootCampaign(seed=1, judges={"k": broken}, deliverable=lambda case: True, iterations=1)
    (booted,) = run(found)
    assert booted.boot.ended == "error"
    assert booted.boot.findings[0].id == "FUZZ-ORACLE-ERROR"
    assert "no judgement" in booted.boot.findings[0].actual


def test_a_minimised_case_shows_the_same_and_is_no_larger() -> None:
    of = campaign()
    booted = next(each for each in run(of) if each.boot.findings and len(each.case.tables[0]) > 200)
    signature = booted.boot.findings[0].signature
    smaller = of.minimised(booted, signature, budget=60)
    assert signature in signatures(_judge(smaller).findings)
    assert sum(map(len, smaller.tables)) < sum(map(len, booted.case.tables))
    assert not undeliverable(smaller)
    assert of.minimised(booted, signature, budget=0) == booted.case


def _request(kernel: int, model: int) -> Replayed:
    call = MemblockCall(
        call="memblock_alloc_try_nid",
        start=0,
        end=0,
        size=64,
        align=64,
        nid=None,
        caller="numa_alloc_distance",
    )
    return Replayed(request=call, kernel=kernel, model=model)


def test_an_allocation_elsewhere_is_a_finding_that_names_its_caller() -> None:
    case = next(campaign().cases())[1]
    outcome = boot(case, POLICIES["v6.1"])
    requests = [_request(0x1000, 0x1000), _request(0x2000, 0x3000)]
    boot_ = judged(compare(outcome, outcome), requests, ended="marker", seconds=1)
    assert (boot_.requests, boot_.agreed) == (2, 1)
    (found,) = boot_.findings
    assert found.signature == "DIFF-ALLOCATIONS:model and boot: numa_alloc_distance"
    assert (found.expected, found.actual) == ("model: 0x3000", "boot v6.1: 0x2000")


@pytest.mark.parametrize("seed", range(3))
def test_a_tally_counts_every_boot(seed: int) -> None:
    boots = [each.boot for each in run(campaign(seed=seed))]
    tally = Tally()
    for each in boots:
        tally.add(each)
    assert tally.boots == len(boots)
    assert tally.ends == Counter({"marker": len(boots)})
    assert tally.seconds == sum(each.seconds for each in boots)
    assert all(sum(counts.values()) == len(boots) for counts in tally.fields.values())
    differing = sum(any(v is Verdict.DIFFER for v in each.fields.values()) for each in boots)
    assert tally.disagreed == differing
