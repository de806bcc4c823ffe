"""Findings in the formats of other programs, and which of them count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from junitparser import JUnitXml

from acpitk.cli import run

NODES = ("--node", "0:mem=0-512M", "--node", "1:mem=512M-1G,hotplug", "--distance", "0,1=21")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A directory with the tables of two nodes, and a SRAT whose checksum is wrong."""
    monkeypatch.chdir(tmp_path)
    assert run(("gen", *NODES)) == 0
    broken = bytearray((tmp_path / "srat.bin").read_bytes())
    broken[9] ^= 1
    (tmp_path / "broken.bin").write_bytes(broken)
    capsys.readouterr()
    return tmp_path


def _sarif(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> Any:
    assert run((*arguments, "--format", "sarif")) == status
    (only,) = json.loads(capsys.readouterr().out)["runs"]
    return only["results"]


def test_json_is_the_same_by_either_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("lint", "broken.bin", "--json")) == 1
    by_flag = capsys.readouterr().out
    assert run(("lint", "broken.bin", "--format", "json")) == 1
    assert capsys.readouterr().out == by_flag
    assert run(("lint", "broken.bin", "--json", "--format", "sarif")) == 2
    assert "give the one or the other" in capsys.readouterr().err


def test_lint_points_into_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = (here / "slit.bin").read_bytes() + (here / "broken.bin").read_bytes()
    (here / "both.bin").write_bytes(both)
    (result,) = _sarif(capsys, 1, "lint", "both.bin")
    physical = result["locations"][0]["physicalLocation"]
    assert physical["artifactLocation"]["uri"] == "both.bin"
    assert physical["region"]["byteOffset"] == (here / "slit.bin").stat().st_size + 9


def test_lint_names_the_file_of_each_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = _sarif(capsys, 1, "lint", "srat.bin", "broken.bin")
    places = {r["ruleId"]: r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in results}
    assert places["SRAT-CHECKSUM"] == "broken.bin"
    (here / "tables").mkdir()
    (here / "broken.bin").rename(here / "tables" / "SRAT")
    (result,) = _sarif(capsys, 1, "lint", "tables")
    physical = result["locations"][0]["physicalLocation"]
    assert (physical["artifactLocation"]["uri"], physical["region"]["byteOffset"]) == ("tables/SRAT", 9)


def test_text_dumps_have_no_byte_offset(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (here / "broken.bin").read_bytes()
    lines = [f"  {i:04X}: {data[i : i + 16].hex(' ').upper()}" for i in range(0, len(data), 16)]
    (here / "dump.txt").write_text("SRAT @ 0x0\n" + "\n".join(lines) + "\n")
    (result,) = _sarif(capsys, 1, "lint", "dump.txt")
    assert result["locations"][0]["physicalLocation"] == {"artifactLocation": {"uri": "dump.txt"}}
    assert result["properties"]["tableOffset"] == 9


def test_junit_counts_clean_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("lint", "slit.bin", "broken.bin", "--format", "junit")) == 1
    (suite,) = JUnitXml.fromstring(capsys.readouterr().out.encode())
    assert (suite.tests, suite.failures) == (2, 1)
    assert {case.classname for case in suite} == {"slit.bin", "broken.bin"}


def test_predict_and_fuzz_have_them_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("gen", "--from", "srat.bin", "--hotplug", "all", "-o", "hot")) == 0
    capsys.readouterr()
    predict = ("predict", "--srat", "hot/srat.bin", "--mem", "1G", "--cmdline", "movable_node")
    assert "POL-ALL-HOT" in {result["ruleId"] for result in _sarif(capsys, 1, *predict)}
    results = _sarif(capsys, 1, "fuzz", "--iterations", "50", "--seed", "1", "--out", "found")
    named = {r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in results}
    assert len(named) == len(results)
    assert all((here / name).is_file() for name in named)
    assert run(("fuzz", "--iterations", "50", "--seed", "1", "--out", "found", "--format", "junit")) == 1
    (suite,) = JUnitXml.fromstring(capsys.readouterr().out.encode())
    assert suite.tests == len(results)


def test_what_is_not_selected_counts_for_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("lint", "broken.bin", "--ignore", "SRAT-CHECKSUM")) == 0
    assert run(("lint", "broken.bin", "--select", "POL-")) == 0
    assert run(("lint", "broken.bin", "--select", "SRAT-CHECKSUM,SLIT-", "--ignore", "SRAT-")) == 1
    capsys.readouterr()
    arguments = ("fuzz", "--iterations", "100", "--seed", "1", "--out", "found", "--json")
    assert run((*arguments, "--select", "POL-", "--ignore", "POL-SWEPT")) == 1
    ids = {found["id"] for found in json.loads(capsys.readouterr().out)["findings"]}
    assert ids
    assert all(each.startswith("POL-") for each in ids)
    assert "POL-SWEPT" not in ids
    assert not list((here / "found").glob("pol-swept-*.json"))
