"""Oracles of Debian's packages: gated, equal to the model on fuzzed cases, and the same every time."""

from __future__ import annotations

import os
from random import Random

import pytest

from acpitk.checks.differential import compare
from acpitk.errors import ToolError
from acpitk.fuzz.campaign import Campaign
from acpitk.kernel.boot import boot
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Case
from acpitk.oracle.client import End
from acpitk.oracle.judge import Judge
from acpitk.oracle.store import OracleBuild, build_packaged, find_oracle

KERNELS = ("v6.1", "v7.3")


@pytest.fixture(scope="module", params=[pytest.param(k, marks=pytest.mark.kernel(k)) for k in KERNELS])
def build(request: pytest.FixtureRequest) -> OracleBuild:
    """The oracle of a fetched kernel, built first where CI asks for everything."""
    try:
        return find_oracle(request.param)
    except ToolError as error:
        if "kernel" not in os.environ.get("ACPITK_REQUIRE", ""):
            pytest.skip(str(error))
        return build_packaged(request.param)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    campaign = Campaign(seed=11, iterations=None, oracles=())
    return [campaign.case(index)[0] for index in range(1500)]


def test_it_repeated_the_recorded_boots(build: OracleBuild) -> None:
    assert build.gated >= 6


def test_the_model_says_the_same(build: OracleBuild, cases: list[Case]) -> None:
    judge = Judge(build)
    judge.ahead(cases)
    compared = 0
    for case in cases:
        prediction = boot(case, POLICIES[build.row])
        kernel = judge.disagrees(case, prediction)
        if kernel is not None:
            assert compare(prediction, kernel).agrees, case
        compared += 1
    assert compared == len(cases)


def test_order_and_log_make_no_difference(build: OracleBuild, cases: list[Case]) -> None:
    some = [case for case in cases[:300] if not case.table(b"SLIT")]
    with build.worker() as worker:
        first = worker.ask_many(some)
        shuffled = list(range(len(some)))
        Random(1).shuffle(shuffled)
        again = dict(zip(shuffled, worker.ask_many(some[i] for i in shuffled), strict=True))
        assert [again[i] for i in range(len(some))] == first
        for case, report in list(zip(some, first, strict=True))[:40]:
            logged = worker.ask(case, log=True)
            if report.end in (End.DONE, End.PANIC):
                assert (logged.counts, logged.rows) == (report.counts, report.rows)
                assert logged.log.startswith("Command line: ")


def test_a_worker_that_is_killed_is_started_again(build: OracleBuild, cases: list[Case]) -> None:
    with build.worker() as worker:
        before = worker.ask(cases[0])
        process = worker._process
        assert process is not None
        process.kill()
        process.wait()
        assert worker.ask(cases[0]) == before
