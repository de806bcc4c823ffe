"""`acpitk diff` on the model's rows: changelog, one case, fuzzed cases, and what it refuses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from acpitk.cli import run
from acpitk.corpus import StoredCase, load_case, save
from acpitk.machine import Q35, Case
from acpitk.ranges import GIB
from acpitk.tables.srat import MemoryAffinity, MemoryFlags, build_srat, encode_srat

HOT = MemoryFlags.ENABLED | MemoryFlags.HOT_PLUGGABLE
BOUNDARY = 0x20000064


@pytest.fixture
def sub_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A case file: the hot-pluggable node begins inside a page."""
    monkeypatch.chdir(tmp_path)
    plain = MemoryAffinity(proximity_domain=0, base=0, length=BOUNDARY, flags=MemoryFlags.ENABLED)
    hot = MemoryAffinity(proximity_domain=1, base=BOUNDARY, length=GIB - BOUNDARY, flags=HOT)
    tables = (encode_srat(build_srat((plain, hot))),)
    return save(tmp_path, StoredCase(case=Case(machine=Q35(GIB), tables=tables, cmdline="movable_node")))


def _json(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> Any:
    assert run(("diff", *arguments, "--json")) == status
    return json.loads(capsys.readouterr().out)


def test_the_changelog_names_behaviours_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("diff", "v6.1", "v6.12")) == 1
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("ZONE_MOVABLE start rounding: PFN_DOWN -> PFN_UP")
    assert lines[at + 1].strip() == (
        "find_zone_movable_pfns_for_nodes(), mm/page_alloc.c (6.1) -> mm/mm_init.c (6.12)"
    )
    document = _json(capsys, 1, "v6.1", "v6.12")
    assert "hotplug_start" in [change["field"] for change in document["changes"]]
    assert {"field": "image_end", "before": 0x3830000, "after": 0x3C30000} in document["build"]


def test_a_row_is_the_same_as_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert _json(capsys, 0, "v7.3", "7.3")["changes"] == []


def test_a_version_without_a_row_is_said_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("diff", "6.6", "7.3.4")) == 1
    err = capsys.readouterr().err
    assert err == "acpitk: 6.6 has no row of its own: the model's is v6.1, the nearest at or below\n"


def test_a_case_is_laid_to_its_behaviour(sub_page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = _json(capsys, 1, "v6.1", "v6.12", str(sub_page))
    assert document["fields"]["zone_movable_start"] == "differ"
    assert document["fields"]["numa"] == "agree"
    (cause,) = [each for each in document["causes"] if "zone_movable_start" in each["fields"]]
    assert cause["switches"] == ["hotplug_start"]
    assert run(("diff", "v6.1", "v6.12", str(sub_page))) == 1
    out = capsys.readouterr().out
    assert "ZONE_MOVABLE start rounding: PFN_DOWN -> PFN_UP" in out
    assert "kernel build: brk_start 0x3800000 -> 0x3c00000" in out


def test_the_option_of_2013_is_translated_and_said(
    sub_page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(("diff", "v5.10", "seed-2013", str(sub_page))) == 1
    out, err = capsys.readouterr()
    assert "each row gets its own word: movable_node for v5.10, movablenode for seed-2013" in err
    assert "kernel_exemption" not in err
    assert "Why they differ" in out


def test_a_campaign_keeps_one_small_case_for_each_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("v6.12", "v7.3", "--campaign", "200", "--seed", "2", "--out", "kept")
    first = _json(capsys, 1, *arguments, "--jobs", "1")
    second = _json(capsys, 1, *arguments, "--jobs", "2")
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert first["iterations"] == 200
    causes = [each["cause"] for each in first["differences"]]
    assert len(set(causes)) == len(causes)
    assert "v6.12 and v7.3: kernel build: node_data" in causes
    for each in first["differences"]:
        assert each["minimised"]
        replayed = _json(capsys, 1, *shlex.split(each["replay"])[2:])
        _, switches, fields = each["cause"].split(": ")
        expected = {"switches": switches.split(" + "), "fields": fields.split(", ")}
        assert expected in replayed["causes"]
    assert len(list(Path("kept").iterdir())) == len(causes)


def test_a_campaign_starts_from_given_cases(sub_page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("v6.1", "v6.12", "--campaign", "1", "--from", str(sub_page), "--jobs", "1")
    causes = [each["cause"] for each in _json(capsys, 1, *arguments)["differences"]]
    assert any("hotplug_start: zone_movable_start" in cause for cause in causes)
    saved = [load_case(path) for path in Path("differences").iterdir()]
    machines = [case.machine for case in saved]
    assert machines
    assert all(isinstance(machine, Q35) and machine.memory <= GIB for machine in machines)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("4.19", "v6.1"), "older than the oldest row"),
        (("v6.1", "windows"), "no kernel version"),
        (("v6.1", "v7.3", "--real"), "--real boots a case"),
        (("v6.1", "v7.3", "--campaign", "9", "--real"), "acpitk diff model v7.3"),
        (("v6.1", "v7.3", "case.json", "--campaign", "9"), "--from"),
        (("v6.1", "v7.3", "--start", "9"), "acpitk diff model v7.3"),
        (("v6.1", "v7.3", "--time-limit", "soon"), "30m"),
        (("v6.1", "v7.3", "--time-limit", "0"), "30m"),
        (("v6.1", "v7.3", "--campaign", "0"), "--campaign"),
        (("v6.1",), "'B'"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(("diff", *arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert len(err.splitlines()) == 1
