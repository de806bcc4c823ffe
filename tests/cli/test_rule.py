"""The catalogue on the command line, shell completion, and dry runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from acpitk.checks.catalogue import RULES
from acpitk.cli import run


def test_all_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("rule", "--json")) == 0
    rows = json.loads(capsys.readouterr().out)["rules"]
    assert [row["id"] for row in rows] == list(RULES)
    assert {"id", "severity", "title", "explanation", "advice", "mechanism"} == rows[0].keys()
    assert run(("rule", "SLIT-")) == 0
    out = capsys.readouterr().out
    assert all((rule in out) is rule.startswith("SLIT-") for rule in RULES)


def test_one_rule_comes_with_an_example_that_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("rule", "POL-KERNEL-NODE", "--json")) == 0
    (row,) = json.loads(capsys.readouterr().out)["rules"]
    assert row["example"]["finding"]["id"] == "POL-KERNEL-NODE"
    assert run(("predict", row["example"]["case"], "--json", "--select", "POL-KERNEL-NODE")) == 1
    assert row["example"]["finding"]["signature"] in capsys.readouterr().out


def test_a_rule_without_example_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("rule", "IASL-HUNG")) == 0
    out = capsys.readouterr().out
    assert RULES["IASL-HUNG"].explanation in out
    assert "No case of the shipped corpus gives it." in out


def test_an_unknown_rule_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("rule", "POL_NOTHING")) == 2
    assert "'POL_NOTHING'" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("completion", shell)) == 0
    script = capsys.readouterr().out
    assert "_ACPITK_COMPLETE" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=20)


def test_completion_offers_the_commands(tmp_path: Path) -> None:
    environment = os.environ | {
        "_ACPITK_COMPLETE": "bash_complete",
        "COMP_WORDS": "acpitk ru",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "acpitk"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "plain,rule\n"


def test_a_dry_run_needs_something_to_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("fuzz", "--dry-run", "--out", str(tmp_path / "out"))) == 2
    assert "--boot" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.kernel("v6.1")
def test_a_dry_run_prints_one_line_and_starts_nothing(
    tmp_path: Path,
    kernel_image: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = kernel_image("v6.1")
    monkeypatch.chdir(tmp_path)
    assert run(("gen", "--preset", "two-socket")) == 0
    capsys.readouterr()
    monkeypatch.setenv("PATH", "")
    for arguments in (
        ("fuzz", "--from", "case.json", "--boot", "all", "--dry-run", "--out", "out"),
        ("replay", "case.json", "--boot", "--dry-run"),
        ("boot", "case.json", "--dry-run"),
    ):
        assert run(arguments) == 0
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        assert out.startswith("qemu-system-x86_64 ")
        assert str(path) in out
    assert not (tmp_path / "out").exists()
    assert run(("replay", "case.json", "--dry-run")) == 2
