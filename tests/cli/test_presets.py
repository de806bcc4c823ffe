"""Presets: each is a server that firmware could describe, lints clean and can be predicted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acpitk.checks.finding import Severity
from acpitk.checks.invariants import check
from acpitk.checks.spec import lint
from acpitk.cli import run
from acpitk.cli.topologies import presets, read_preset
from acpitk.corpus import load_case
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Q35
from acpitk.outcome import NumaState

NAMES = tuple(presets())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1, 8])
def test_each_lints_clean_and_predicts(
    name: str, scale: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(("gen", "--preset", name, "--scale", str(scale), "-o", str(tmp_path))) == 0
    case = load_case(tmp_path / "case.json")
    assert (tmp_path / "srat.bin").read_bytes() == case.tables[0]
    judged = lint(case.tables, machine=case.resolved())
    assert not [found for found in judged if found.severity is not Severity.NOTE]
    for policy in POLICIES.values():
        prediction = predict(case, policy)
        assert prediction.outcome.panic is None
        assert prediction.outcome.numa is NumaState.SRAT
        assert not [f for f in check(case, prediction) if f.severity is Severity.ERROR]


@pytest.mark.parametrize("name", NAMES)
def test_the_nodes_describe_the_guest_exactly(name: str) -> None:
    file = read_preset(name)
    assert file.description
    assert file.guest is not None
    plain = [m.range for node in file.topology.nodes for m in node.memory if m.range.end < 1 << 40]
    assert sum(each.size for each in plain) == file.guest - (384 << 10)  # 640 KiB to 1 MiB is no RAM
    for ram in Q35(file.guest).ram:
        assert max(each.end for each in plain if each.start < ram.end) == ram.end


def test_the_list_names_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("gen", "--preset", "list")) == 0
    text = capsys.readouterr().out
    assert run(("gen", "--preset", "list", "--json")) == 0
    rows = json.loads(capsys.readouterr().out)["presets"]
    assert tuple(row["name"] for row in rows) == NAMES
    assert {"two-socket", "four-socket", "nps4", "snc2", "cxl-expander", "hypervisor"} <= set(NAMES)
    for row in rows:
        assert row["name"] in text
        assert row["description"] in text


def test_a_preset_is_a_topology_file(tmp_path: Path) -> None:
    for name, path in presets().items():
        assert run(("gen", "--topology", str(path), "-o", str(tmp_path / "file"))) == 0
        assert run(("gen", "--preset", name, "-o", str(tmp_path / "preset"))) == 0
        for table in ("srat.bin", "slit.bin"):
            written = (tmp_path / directory / table for directory in ("file", "preset"))
            assert len({path.read_bytes() for path in written}) == 1


def test_scaling_multiplies_what_is_above_4g(tmp_path: Path) -> None:
    assert run(("gen", "--preset", "two-socket", "--scale", "4", "-o", str(tmp_path))) == 0
    case = load_case(tmp_path / "case.json")
    assert case.machine == Q35((2 << 30) + 4 * (6 << 30))
    assert run(("gen", "--preset", "hypervisor", "--scale", "64", "-o", str(tmp_path))) == 0
