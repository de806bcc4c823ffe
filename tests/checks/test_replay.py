"""The model and its memblock against the consoles of real kernels recorded under tests/klog/logs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from acpitk import klog
from acpitk.checks.differential import compare
from acpitk.checks.replay import Replayed
from acpitk.checks.replay import replay as replay_trace
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import BUILDS, POLICIES
from acpitk.machine import Case, case_from_json
from acpitk.outcome import Outcome

GOLDEN = sorted((Path(__file__).parent.parent / "klog" / "logs").glob("*/*.log"))


def _boot(log: Path) -> tuple[Case, str, Outcome]:
    case = case_from_json(json.loads((log.parent / "case.json").read_text()), source=str(log))
    console = log.read_text()
    ended = json.loads(log.with_suffix(".json").read_text())["ended"]
    return case, console, klog.parse(console, kernel=log.stem, ended=ended)


def replay(case: Case, console: str, booted: Outcome, kernel: str) -> list[Replayed]:
    return replay_trace(
        klog.memblock_trace(console),
        klog.firmware_facts(console),
        booted,
        predict(case, POLICIES[kernel]),
        max_numnodes=BUILDS[kernel].max_numnodes,
    )


@pytest.mark.parametrize("log", GOLDEN, ids=lambda log: f"{log.parent.name}-{log.stem}")
def test_prediction_equals_the_boot(log: Path) -> None:
    case, _, booted = _boot(log)
    assert compare(predict(case, POLICIES[log.stem]).outcome, booted).differences == ()


@pytest.mark.parametrize("log", GOLDEN, ids=lambda log: f"{log.parent.name}-{log.stem}")
def test_every_request_gets_the_same_address(log: Path) -> None:
    case, console, booted = _boot(log)
    requests = replay(case, console, booted, log.stem)
    assert requests
    assert [request for request in requests if not request.agrees] == []


def test_a_wrong_direction_is_noticed() -> None:
    log = next(log for log in GOLDEN if log.parent.name == "accepted" and log.stem == "v6.1")
    case, console, booted = _boot(log)
    assert not all(r.agrees for r in replay(replace(case, cmdline=""), console, booted, log.stem))


def test_a_console_without_a_dump_has_nothing_to_replay() -> None:
    log = GOLDEN[0]
    case, _, booted = _boot(log)
    assert replay(case, "", booted, log.stem) == []
