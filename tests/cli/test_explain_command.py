"""`acpitk explain`: text, JSON, and two sides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acpitk.cli import run

CORPUS = Path(__file__).resolve().parent.parent.parent / "corpus"
HALF_HOT = str(next(CORPUS.glob("half-hot-node-*.json")))
MIRROR = str(next(CORPUS.glob("movablecore-*.json")))


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    status = run(("explain", *arguments, "--json"))
    return status, json.loads(capsys.readouterr().out)


def test_the_story_in_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("explain", HALF_HOT)) == 1  # a warning: the hot range shares a memory block
    out, err = capsys.readouterr()
    assert err == ""
    for part in ("e820 ", "SRAT ", "nodes ", "zones ", "blocks ", "9. ZONE_MOVABLE", "starts at 0x104000000"):
        assert part in out
    assert "[find_zone_movable_pfns_for_nodes(), mm/page_alloc.c, Linux 6.1]" in out
    assert "\x1b" not in out


def test_the_same_story_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    status, document = _json(capsys, HALF_HOT, "--kernel", "v6.12")
    assert status == 1
    assert (document["schema"], document["kernel"]) == (1, "v6.12")
    assert all(step["source"].endswith("Linux 6.12") for step in document["steps"])
    lanes = {lane["name"]: lane["ranges"] for lane in document["map"]["lanes"]}
    assert list(lanes) == ["e820", "SRAT", "reserved", "nodes", "zones", "blocks"]
    assert {key: lanes["SRAT"][0][key] for key in ("start", "end")} == {"start": 0, "end": 0x80000000}
    assert any(bar["label"] == "kernel image" for bar in lanes["reserved"])
    assert document["slit"] == document["distances"] == [[10, 20], [20, 10]]


def test_tables_and_machine_as_predict_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("gen", "--node", "0:mem=0-1G", "-o", str(tmp_path))) == 0
    capsys.readouterr()
    assert run(("explain", "--srat", str(tmp_path / "srat.bin"), "--mem", "1G")) == 0
    assert "domain 0 is node 0" in capsys.readouterr().out


def test_two_rows_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    status, document = _json(capsys, MIRROR, "--kernel", "v6.1", "--compare", "v7.3")
    assert status == 1
    assert [story["title"] for story in document["stories"]] == ["Linux v6.1, model", "Linux v7.3, model"]
    assert document["comparison"]["differences"]
    assert any(change["field"] == "coverage" for change in document["behaviours"])
    assert run(("explain", MIRROR, "--compare", "v7.3")) == 1
    out = capsys.readouterr().out
    assert any(line.startswith("!") for line in out.splitlines())


def test_a_row_against_itself_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("explain", HALF_HOT, "--compare", "v6.1")) == 0
    out = capsys.readouterr().out
    assert "agree in every field" in out
    assert not any(line.startswith("!") for line in out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((HALF_HOT, "--boot", "--compare", "v7.3"), "--boot and --compare"),
        ((HALF_HOT, "--kernel-image", "v6.1"), "--kernel-image and --dry-run are about --boot"),
        ((), "give a case file"),
        (("no-such-case.json",), "no-such-case.json"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(("explain", *arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_page_decides_glyphs_and_width(encoding: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "70", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "acpitk", "explain", HALF_HOT],
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    text = done.stdout.decode(encoding)
    picture = text.partition("SLIT, by domain")[0]
    assert all(len(line) <= 70 for line in picture.splitlines())
    assert text.isascii() is (encoding == "ascii")


@pytest.mark.qemu
@pytest.mark.kernel("v6.1")
def test_a_real_boot_beside_the_model(
    qemu_path: Path, kernel_image: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    kernel_image("v6.1")
    status, document = _json(capsys, HALF_HOT, "--boot")
    assert status == 0
    assert [story["title"] for story in document["stories"]] == ["Linux v6.1, model", "Linux v6.1, boot"]
    assert document["comparison"]["differences"] == []
