"""Every acpitk command the README shows runs and prints what is shown there."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acpitk.cli import run

README = Path(__file__).resolve().parents[2] / "README.md"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NEEDS = {"qemu": ("boot", "--boot", "--boot-every"), "iasl": ("--iasl-every",), "network": ("fetch",)}


def _transcripts() -> Iterator[tuple[list[str], str]]:
    """Arguments and expected output of every `$ acpitk ...`, in order."""
    for block in _BLOCK.findall(README.read_text()):
        for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            words = shlex.split(command, comments=True)
            if words[0] == "acpitk":
                yield words[1:], output


def _expand(words: list[str]) -> list[str]:
    """Words with file patterns expanded, as the shell does."""
    return [name for word in words for name in (sorted(glob.glob(word)) or [word])]


def _needs(arguments: list[str], what: str) -> bool:
    return any(word in arguments for word in _NEEDS[what])


def _check(shown: str, printed: str) -> None:
    """Compare line by line; `...` stands for any lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line) + "\n" for line in shown.splitlines()
    )
    assert re.fullmatch(pattern, printed), f"the README shows\n{shown}\nacpitk prints\n{printed}"


def _run_all(skip: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, shown in _transcripts():
        if any(_needs(arguments, what) for what in skip):
            continue
        assert run(_expand(arguments)) in (0, 1), arguments
        printed = capsys.readouterr().out
        if shown.strip():
            _check(shown, printed)


def test_the_readme_shows_commands() -> None:
    shown = {arguments[0] for arguments, _ in _transcripts()}
    assert {"gen", "decode", "lint", "predict", "boot", "fuzz", "replay", "kernel"} <= shown


def test_commands_without_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _run_all(("qemu", "iasl", "network"), capsys)


@pytest.mark.iasl
@pytest.mark.qemu
@pytest.mark.kernel("v6.1")
def test_commands_with_tools(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    iasl_path: Path,
    qemu_path: Path,
    kernel_image: Callable[[str], Path],
) -> None:
    kernel_image("v6.1")
    monkeypatch.chdir(tmp_path)
    _run_all(("network",), capsys)
