"""`acpitk boot` and boots in `fuzz` and `replay`, on a real kernel."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acpitk.cli import run

pytestmark = [pytest.mark.qemu, pytest.mark.kernel("v6.1")]

TABLES = ("--srat", "srat.bin", "--slit", "slit.bin", "--mem", "1G", "--cmdline", "movable_node")


@pytest.fixture
def here(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    qemu_path: Path,
    kernel_image: Callable[[str], Path],
) -> Path:
    """A directory with the tables of two nodes, the second hot-pluggable."""
    kernel_image("v6.1")
    monkeypatch.chdir(tmp_path)
    nodes = ("--node", "0:mem=0-512M", "--node", "1:mem=512M-1G,hotplug", "--distance", "0,1=21")
    assert run(("gen", *nodes)) == 0
    capsys.readouterr()
    return tmp_path


def _json(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> Any:
    assert run((*arguments, "--json")) == status
    return json.loads(capsys.readouterr().out)


def test_boot_gives_the_outcome_of_a_real_kernel(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = _json(capsys, 0, "boot", *TABLES, "--check", "--console", "boot.log")
    assert document["source"] == "boot"
    assert document["zone_movable_start"] == {"1": 512 << 20}
    assert document["check"]["differences"] == []
    assert document["check"]["fields"]["zones"] == "agree"
    assert document["check"]["fields"]["memory"] == "agree"
    assert "Linux version 6.1" in (here / "boot.log").read_text()


def test_boot_and_predict_tell_the_same_story(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    booted = _json(capsys, 0, "boot", *TABLES)
    predicted = _json(capsys, 0, "predict", *TABLES)
    for field in ("numa", "memory", "zones", "distances", "node_data"):
        assert booted[field] == predicted[field]


def test_a_kernel_by_path_is_compared_with_its_row_or_the_one_named(
    here: Path, capsys: pytest.CaptureFixture[str], kernel_image: Callable[[str], Path]
) -> None:
    image = str(kernel_image("v6.1"))
    assert run(("boot", *TABLES, "--check", "--kernel-image", image)) == 0
    assert run(("boot", *TABLES, "--check", "--kernel-image", image, "--kernel", "v6.1")) == 0
    capsys.readouterr()
    assert run(("boot", *TABLES, "--check", "--kernel-image", image, "--kernel", "v7.3")) == 1
    assert "DIFF-" in capsys.readouterr().out


def test_a_kernel_that_dies_leaves_its_last_lines_and_a_signature(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = Path(__file__).resolve().parents[2] / "corpus"
    (died,) = corpus.glob("top-page-without-node-*.json")
    document = _json(capsys, 1, "boot", str(died))
    assert document["signature"].startswith("bug: kernel null pointer dereference")
    assert any("Kernel panic" in line for line in document["last_lines"])


def test_replay_keeps_the_console_for_the_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Path(__file__).resolve().parents[2] / "corpus"
    (case,) = corpus.glob("initrd-on-hot-node-*.json")
    (here / "finding.json").write_text(case.read_text())
    assert run(("replay", "finding.json", "--console", "finding.log")) == 2
    assert run(("replay", "finding.json", "--boot", "--console", "finding.log")) == 1
    assert "Linux version 6.1" in (here / "finding.log").read_text()
    assert run(("report", "finding.json", "-o", "report.html")) == 0
    assert "SRAT: Node 1 PXM 1" in (here / "report.html").read_text()


def test_a_console_that_ends_early_is_not_a_clean_boot(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = _json(capsys, 1, "boot", *TABLES, "--timeout", "0.1")
    assert document["panic"] in ("silent", "hang")
    assert "zones" not in document


def test_dry_run_names_the_files_it_was_given(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("boot", *TABLES, "--dry-run")) == 0
    line = capsys.readouterr().out
    assert line.startswith("qemu-system-x86_64 ")
    assert "-acpitable file=srat.bin -acpitable file=slit.bin" in line


def test_fuzz_boots_what_it_is_told_to(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("fuzz", "--iterations", "20", "--seed", "1", "--boot-every", "10", "--out", "found")
    assert run((*arguments, "--json")) in (0, 1)
    document = json.loads(capsys.readouterr().out)
    assert (document["boots"], document["boots_via"]) == (2, {"fork": 2})
    assert run((*arguments[:-1], "again")) in (0, 1)
    assert ", 2 boots (2 fork), " in " ".join(capsys.readouterr().out.split())


def test_replay_boots_a_finding(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, 1, "fuzz", "--iterations", "100", "--seed", "1", "--out", "found")["findings"]
    swept = next(each for each in found if each["id"] == "POL-SWEPT")
    replayed = _json(capsys, 1, *swept["replay"].split()[1:], "--boot")
    assert replayed["oracles"] == ["model", "boot v6.1"]
    assert replayed["reproduced"] == {swept["signature"]: True}
    assert not [each for each in replayed["findings"] if each["id"].startswith("DIFF-")]
