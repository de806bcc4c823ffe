"""Laws of a campaign: the same findings however it is run, and nothing an oracle does ends it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from acpitk.checks import invariants
from acpitk.checks.behaviour import behaviour
from acpitk.checks.catalogue import RULES
from acpitk.checks.finding import Finding, Severity
from acpitk.corpus import load_corpus
from acpitk.errors import ToolError
from acpitk.fuzz.campaign import Campaign, CampaignResult, Oracle
from acpitk.fuzz.mutators import MUTATORS, sealed
from acpitk.fuzz.strategies import draw_cases
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Case

SEEDS = tuple(s.case for _, s in load_corpus(Path(__file__).resolve().parents[2] / "corpus").cases)


def policy(case: Case) -> Iterator[Finding]:
    yield from invariants.check(case, predict(case, POLICIES["v6.1"]))


def decisions(case: Case) -> frozenset[str]:
    return behaviour(predict(case, POLICIES["v6.1"]))


def tables(case: Case) -> Iterator[Finding]:
    yield Finding(
        id="TEST-TABLES",
        severity=Severity.NOTE,
        where="case",
        expected="",
        actual=f"{len(case.tables)} tables",
        cause=str(len(case.tables)),
        kernels=(f"v{len(case.cmdline.split())}",),
    )


def fails(case: Case) -> Iterator[Finding]:
    if "numa=off" in case.cmdline:
        raise KeyError(len(case.tables))
    return iter(())


CAMPAIGN = Campaign(
    seed=3,
    iterations=300,
    pool=24,
    generation=64,
    seeds=SEEDS,
    oracles=(
        Oracle(name="policy", check=policy, minimise_budget=30, behaviour=decisions),
        Oracle(name="tables", check=tables, every=7, deliverable=True, minimise_budget=10),
    ),
)


def as_found(oracles: tuple[Oracle, ...]) -> tuple[Oracle, ...]:
    """They leave cases as they came up."""
    return tuple(replace(oracle, minimise_budget=0) for oracle in oracles)


def last(campaign: Campaign, *, jobs: int = 1) -> CampaignResult:
    *_, result = campaign.run(jobs=jobs)
    return result


@pytest.fixture(scope="module")
def result() -> CampaignResult:
    return last(CAMPAIGN)


def test_the_same_campaign_finds_the_same(result: CampaignResult) -> None:
    again = last(CAMPAIGN)
    assert replace(again, seconds=result.seconds) == result


def test_jobs_change_nothing_but_the_time(result: CampaignResult) -> None:
    split = last(replace(CAMPAIGN, shard=11), jobs=3)
    assert replace(split, seconds=result.seconds) == result


def test_another_seed_tries_other_cases(result: CampaignResult) -> None:
    assert last(replace(CAMPAIGN, seed=4)).mutators != result.mutators


def test_more_iterations_find_no_less(result: CampaignResult) -> None:
    few = last(replace(CAMPAIGN, iterations=150))
    counts = {f.finding.signature: f.count for f in result.found}
    assert few.found
    for found in few.found:
        assert counts[found.finding.signature] >= found.count


def test_every_finding_is_shown_by_its_case(result: CampaignResult) -> None:
    oracles = {oracle.name: oracle for oracle in CAMPAIGN.oracles}
    assert {found.oracle for found in result.found} == set(oracles)
    for found in result.found:
        assert found.minimised
        assert found.finding in list(oracles[found.oracle].check(found.case))
        assert found.count >= 1
        if oracles[found.oracle].deliverable:
            assert sealed(found.case) == found.case


def test_unguided_iterations_can_be_had_alone() -> None:
    for found in last(replace(CAMPAIGN, guided=False, oracles=as_found(CAMPAIGN.oracles))).found:
        case, names = CAMPAIGN.case(found.iteration)
        assert names == found.mutators
        assert found.case == (sealed(case) if found.oracle == "tables" else case)


def test_counts_and_kernels_add_up() -> None:
    result = last(replace(CAMPAIGN, guided=False))
    assert result.done == 300
    assert result.runs == {"policy": 300, "tables": 43}
    assert set(result.mutators) <= set(MUTATORS)
    by_tables = [found for found in result.found if found.oracle == "tables"]
    assert sum(found.count for found in by_tables) == 43
    expected: dict[str, set[str]] = {}
    for index in range(0, 300, 7):
        (finding,) = tables(sealed(CAMPAIGN.case(index)[0]))
        expected.setdefault(finding.signature, set()).update(finding.kernels)
    assert {found.finding.signature: set(found.kernels) for found in by_tables} == expected


def test_seeds_come_first_and_unchanged() -> None:
    assert [CAMPAIGN.case(i) for i in range(len(SEEDS))] == [(case, ()) for case in SEEDS]


def test_progress_grows_to_the_end() -> None:
    done = [snapshot.done for snapshot in CAMPAIGN.run()]
    assert done == sorted(done)
    assert done[0] < done[-1] == 300


def test_stopping_early_keeps_what_was_found() -> None:
    running = CAMPAIGN.run(jobs=2)
    snapshot = next(running)
    running.close()
    assert 0 < snapshot.done < 300
    assert snapshot.found


def test_a_time_limit_stops_it() -> None:
    assert last(replace(CAMPAIGN, iterations=1_000_000, max_seconds=0.0)).done < 1000


def test_an_oracle_that_raises_is_a_finding_and_ends_nothing() -> None:
    campaign = replace(CAMPAIGN, oracles=(Oracle(name="broken", check=fails), CAMPAIGN.oracles[1]))
    outcome = last(campaign)
    assert outcome.done == 300
    (error,) = (found for found in outcome.found if found.oracle == "broken")
    assert error.finding.id == "FUZZ-ORACLE-ERROR"
    assert error.finding.id in RULES
    assert error.finding.signature == "FUZZ-ORACLE-ERROR:broken:KeyError:fails"
    assert "fails(), test_campaign.py" in error.finding.mechanism
    assert error.case.cmdline == "numa=off"


def test_a_worker_that_dies_is_a_clear_error() -> None:
    def dies(case: Case) -> Iterator[Finding]:
        os._exit(9)

    campaign = replace(CAMPAIGN, oracles=(Oracle(name="dies", check=dies),))
    with pytest.raises(ToolError, match="worker process died"):
        last(campaign, jobs=2)


def test_an_empty_campaign_is_a_result() -> None:
    assert last(replace(CAMPAIGN, iterations=0)).done == 0


def test_bases_are_the_seeds_and_the_drawn() -> None:
    assert CAMPAIGN.bases() == SEEDS + draw_cases(3, 24)


def test_a_costly_judge_sees_what_is_new_and_little_else() -> None:
    """The cheap judge names two decisions, so that all but the first cases are old hat."""
    seen: list[Case] = []

    def costly(case: Case) -> list[Finding]:
        seen.append(case)
        return []

    def decisions(case: Case) -> frozenset[str]:
        return frozenset({"table" if case.tables else "none"})

    cheap = Oracle(name="cheap", check=lambda case: [], behaviour=decisions)
    judge = Oracle(name="costly", check=costly, novel=True)
    *_, result = Campaign(seed=1, iterations=512, generation=32, shard=16, oracles=(cheap, judge)).run()
    assert result.runs["cheap"] == 512
    assert 0 < len(seen) == result.runs["costly"] <= 3 * 32


def test_a_slow_judge_is_not_asked_for_ever() -> None:
    asked: list[Case] = []

    def check(case: Case) -> list[Finding]:
        asked.append(case)
        return [Finding(id="TEST", severity=Severity.ERROR, where="", expected="", actual="")]

    oracle = Oracle(name="slow", check=check, minimise_budget=10_000, minimise_seconds=0.0)
    *_, result = Campaign(seed=1, iterations=8, oracles=(oracle,)).run()
    assert [found.minimised for found in result.found] == [True]
    assert len(asked) == 8
