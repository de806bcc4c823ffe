"""Every acpitk command in README.md and docs/ runs and prints what is shown; generated pages are fresh."""

from __future__ import annotations

import doctest
import glob
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acpitk.cli import run

REPOSITORY = Path(__file__).resolve().parents[2]
README, DOCS = REPOSITORY / "README.md", REPOSITORY / "docs"
PAGES = (README, *sorted(DOCS.glob("*.md")))
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NEEDS = {
    "qemu": ("boot", "--boot", "--boot-every", "--export", "--real"),
    "iasl": ("--iasl-every",),
    "network": ("fetch",),
}


def _transcripts(page: Path) -> Iterator[tuple[list[str], str]]:
    """Words after the program's name and expected output of every `$ acpitk ...`, in order."""
    for block in _BLOCK.findall(page.read_text()):
        for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            words = shlex.split(command, comments=True)
            if words[0] == "acpitk":
                yield words[1:], output


def _expand(words: list[str]) -> list[str]:
    """Words with file patterns expanded, as the shell does."""
    return [name for word in words for name in (sorted(glob.glob(word)) or [word])]


def _needs(arguments: list[str], what: str) -> bool:
    boots = what == "qemu" and arguments[:2] == ["diff", "model"]
    return boots or any(word in arguments for word in _NEEDS[what])


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Status and output, in this process; a pipe in a shell."""
    if "|" not in arguments:
        return run(_expand(arguments)), capsys.readouterr().out
    line = " ".join(word if word == "|" else shlex.quote(word) for word in ("acpitk", *arguments))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


def _check(page: Path, shown: str, printed: str) -> None:
    """Compare line by line; `...` stands for any lines, and at the end of a line for the rest of it."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n"
        for line in shown.splitlines()
    )
    assert re.fullmatch(pattern, printed), f"{page.name} shows\n{shown}\nacpitk prints\n{printed}"


def _run_all(page: Path, skip: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, shown in _transcripts(page):
        if any(_needs(arguments, what) for what in skip):
            continue
        status, printed = _run(arguments, capsys)
        assert status in (0, 1), arguments
        if shown.strip():
            _check(page, shown, printed)


def test_the_readme_shows_commands() -> None:
    shown = {arguments[0] for arguments, _ in _transcripts(README)}
    assert {"gen", "decode", "lint", "predict", "boot", "fuzz", "replay", "kernel", "rule", "doctor"} <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_without_tools(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _run_all(page, ("qemu", "iasl", "network"), capsys)


@pytest.mark.iasl
@pytest.mark.qemu
@pytest.mark.kernel("v6.1")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_with_tools(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    iasl_path: Path,
    qemu_path: Path,
    kernel_image: Callable[[str], Path],
) -> None:
    for name in {"v6.1", *re.findall(r"--kernel-image (v[\d.]+)", page.read_text())}:
        kernel_image(name)
    monkeypatch.chdir(tmp_path)
    _run_all(page, ("network",), capsys)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_sessions_print_what_is_shown(page: Path) -> None:
    assert doctest.testfile(str(page), module_relative=False).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_that_are_linked_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)|`((?:docs|tests|acpitk|corpus)/[\w/.-]+)`", page.read_text())
    missing = [name for pair in targets for name in pair if name and not (REPOSITORY / name).exists()]
    assert not missing


def test_generated_pages_are_fresh() -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    pages = generate.pages()
    assert {path.name for path in pages} == {"findings.md", "model.md"}
    for path, text in pages.items():
        assert path.read_text() == text, f"{path.name} is out of step: run make docs"
