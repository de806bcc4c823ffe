"""Whatever a command is given: the documented status, one line on stderr, and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from acpitk.cli import COMMANDS, run
from acpitk.machine import Q35, Case
from acpitk.tables.srat import MemoryAffinity, build_srat, encode_srat

SRAT = encode_srat(build_srat((MemoryAffinity(proximity_domain=0, base=0, length=1 << 30),)))
HUGE_LENGTH = SRAT[:4] + b"\xff\xff\xff\xff" + SRAT[8:]
"""A table that claims to be 4 GiB."""

BAD_FILES: dict[str, bytes | None] = {
    "empty": b"",
    "ten bytes": SRAT[:10],
    "text": b"node 0: all of it\nnode 1: nothing\n" * 20,
    "binary noise": bytes(range(256)) * 8,
    "not UTF-8": b"\xff\xfe{}[]" * 10,
    "deeply nested": b"[" * 100_000,
    "missing": None,
}
READERS = {
    "decode": ("decode", "FILE.bin"),
    "lint": ("lint", "FILE.bin"),
    "lint machine": ("lint", "GOOD.bin", "--machine", "FILE.json"),
    "predict case": ("predict", "FILE.json"),
    "predict srat": ("predict", "--srat", "FILE.bin", "--mem", "1G"),
    "predict slit": ("predict", "--srat", "GOOD.bin", "--slit", "FILE.bin", "--mem", "1G"),
    "predict machine": ("predict", "--srat", "GOOD.bin", "--machine", "FILE.json"),
    "boot case": ("boot", "FILE.json"),
    "boot srat": ("boot", "--srat", "FILE.bin", "--mem", "1G"),
    "boot kernel": ("boot", "--srat", "GOOD.bin", "--mem", "1G", "--dry-run", "--kernel-image", "./FILE.elf"),
    "fuzz case": ("fuzz", "--from", "FILE.json", "--out", "OUT"),
    "fuzz srat": ("fuzz", "FILE.bin", "--out", "OUT"),
    "replay": ("replay", "FILE.json"),
    "gen from": ("gen", "--from", "FILE.bin", "-o", "OUT"),
    "gen topology": ("gen", "--topology", "FILE.yaml", "-o", "OUT"),
}
USAGE = {
    "no such command": ("frobnicate",),
    "no such option": ("decode", "--frobnicate"),
    "decode nothing": ("decode",),
    "lint nothing": ("lint",),
    "lint size": ("lint", "GOOD.bin", "--mem", "much"),
    "lint rule": ("lint", "GOOD.bin", "--select", "SRAT_LENGTH"),
    "lint format": ("lint", "GOOD.bin", "--format", "yaml"),
    "lint two formats": ("lint", "GOOD.bin", "--format", "sarif", "--json"),
    "predict rule": ("predict", "GOOD.json", "--ignore", "NONE-"),
    "fuzz rule": ("fuzz", "--ignore", "NONE-", "--out", "OUT"),
    "fuzz dry run": ("fuzz", "--dry-run", "--out", "OUT"),
    "replay dry run": ("replay", "GOOD.json", "--dry-run"),
    "rule": ("rule", "NONE"),
    "completion": ("completion", "tcsh"),
    "completion nothing": ("completion",),
    "doctor argument": ("doctor", "me"),
    "gen preset": ("gen", "--preset", "none"),
    "gen scale": ("gen", "--node", "0:mem=0-1G", "--scale", "2"),
    "gen only": ("gen", "--node", "0:mem=0-1G", "--only", "HMAT", "-o", "OUT"),
    "gen two tables to stdout": ("gen", "--node", "0:mem=0-1G", "-o", "-"),
    "gen nothing": ("gen",),
    "gen node": ("gen", "--node", "0:mem=1G"),
    "gen two sources": ("gen", "--node", "0:mem=0-1G", "--from", "GOOD.bin"),
    "gen count": ("gen", "--node", "0:mem=0-1G", "--count", "2"),
    "gen distance alone": ("gen", "--from", "GOOD.bin", "--distance", "0,1=21"),
    "gen mutation": ("gen", "--seed", "1", "--mutate", "no-such-mutation"),
    "gen selector": ("gen", "--from", "GOOD.bin", "--hotplug", "node=9"),
    "gen selector alone": ("gen", "--node", "0:mem=0-1G", "--hotplug", "all"),
    "gen revision": ("gen", "--node", "0:mem=0-1G", "--revision", "0"),
    "predict nothing": ("predict",),
    "predict no machine": ("predict", "--srat", "GOOD.bin"),
    "predict two machines": ("predict", "--srat", "GOOD.bin", "--mem", "1G", "--machine", "GOOD.json"),
    "predict case and tables": ("predict", "GOOD.json", "--srat", "GOOD.bin"),
    "predict kernel": ("predict", "GOOD.json", "--kernel", "v0.01"),
    "predict tiny guest": ("predict", "--srat", "GOOD.bin", "--mem", "1M"),
    "predict huge guest": ("predict", "--srat", "GOOD.bin", "--mem", "0xffffffffffffffffff"),
    "predict initrd": ("predict", "--srat", "GOOD.bin", "--mem", "1G", "--initrd", "1G"),
    "predict wrong table": ("predict", "--srat", "GOOD.bin", "--slit", "GOOD.bin", "--mem", "1G"),
    "boot undeliverable": ("boot", "--srat", "BULKY.bin", "--mem", "1G"),
    "boot command line": ("boot", "GOOD.json", "--cmdline", "a\nb"),
    "boot no kernel": ("boot", "GOOD.json", "--dry-run", "--kernel-image", "v0.01"),
    "fuzz iterations": ("fuzz", "--iterations", "0"),
    "fuzz kernel": ("fuzz", "--kernel", "v0.01", "--out", "OUT"),
    "fuzz directory of other things": ("fuzz", "--from", "OTHER", "--out", "OUT"),
    "replay nothing": ("replay",),
    "kernel fetch": ("kernel", "fetch", "v0.01"),
    "kernel nothing": ("kernel", "fetch"),
}
UNWRITABLE = {
    "gen": ("gen", "--node", "0:mem=0-1G", "-o", "GOOD.bin/sub"),
    "gen onto a file": ("gen", "--node", "0:mem=0-1G", "-o", "GOOD.bin"),
    "fuzz": ("fuzz", "--iterations", "1", "--out", "GOOD.bin/sub"),
    "boot console": ("boot", "GOOD.json", "--console", "GOOD.bin/log"),
    "boot console directory": ("boot", "GOOD.json", "--console", "EMPTY"),
}
MISSING_TOOL = {
    "iasl": ("fuzz", "--iterations", "1", "--iasl-every", "1", "--out", "OUT"),
    "QEMU for fuzz": ("fuzz", "--iterations", "1", "--boot", "all", "--out", "OUT"),
    "QEMU for boot": ("boot", "GOOD.json"),
    "kernel": ("boot", "GOOD.json", "--dry-run"),
    "apt": ("kernel", "fetch", "v6.1"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with one good file of each kind; no tool on PATH, no kernel in the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ACPITK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "GOOD.bin").write_bytes(SRAT)
    (tmp_path / "HUGE.bin").write_bytes(HUGE_LENGTH)
    (tmp_path / "BULKY.bin").write_bytes(SRAT.ljust(200_000, b"\0"))
    case = Case(machine=Q35(1 << 30), tables=(SRAT,))
    (tmp_path / "GOOD.json").write_text(json.dumps(case.to_json()))
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "OTHER").mkdir()
    (tmp_path / "OTHER" / "notes.txt").write_text("neither a case nor a table")
    return tmp_path


Fails = Callable[[tuple[str, ...], int], str]


@pytest.fixture
def fails(here: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run a command that must fail cleanly; the one line it says."""

    def check(arguments: tuple[str, ...], status: int) -> str:
        before = _files(here)
        assert run(arguments) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("acpitk: error: "), err
        assert len(err.splitlines()) == 1, err
        assert _files(here) == before
        return err

    return check


def _files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
@pytest.mark.parametrize("arguments", READERS.values(), ids=READERS)
def test_unusable_files(here: Path, fails: Fails, arguments: tuple[str, ...], content: bytes | None) -> None:
    (name,) = (word for word in arguments if word.removeprefix("./").startswith("FILE"))
    if content is not None:
        (here / name).write_bytes(content)
    said = fails(arguments, 2)
    assert name.removeprefix("./") in said


@pytest.mark.parametrize("arguments", READERS.values(), ids=READERS)
def test_a_directory_is_not_a_file(here: Path, fails: Fails, arguments: tuple[str, ...]) -> None:
    (name,) = (word for word in arguments if word.removeprefix("./").startswith("FILE"))
    (here / name).mkdir()
    (here / name / "notes.txt").write_text("neither a case nor a table")
    fails(arguments, 2)


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_usage(fails: Fails, arguments: tuple[str, ...]) -> None:
    fails(arguments, 2)


@pytest.mark.parametrize("arguments", UNWRITABLE.values(), ids=UNWRITABLE)
def test_unwritable_output(fails: Fails, arguments: tuple[str, ...]) -> None:
    fails(arguments, 2)


@pytest.mark.parametrize("arguments", MISSING_TOOL.values(), ids=MISSING_TOOL)
def test_missing_tools(fails: Fails, arguments: tuple[str, ...]) -> None:
    fails(arguments, 3)


def test_hostile_file_names_stay_on_one_line(here: Path, fails: Fails) -> None:
    said = fails(("decode", "no\n\x1b[2Jsuch\r file"), 2)
    assert said.rstrip("\n").isprintable()


@pytest.mark.parametrize("command", ["decode", "lint", "predict", "gen"])
def test_a_table_that_claims_4_gib_is_read_as_it_is(
    here: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    arguments = {
        "decode": ("decode", "HUGE.bin", "--json"),
        "lint": ("lint", "HUGE.bin", "--json"),
        "predict": ("predict", "--srat", "HUGE.bin", "--mem", "1G", "--json"),
        "gen": ("gen", "--from", "HUGE.bin", "-o", "OUT", "--json"),
    }[command]
    assert run(arguments) in (0, 1)
    json.loads(capsys.readouterr().out)
    if command == "gen":
        assert (here / "OUT" / "srat.bin").read_bytes() == HUGE_LENGTH


@pytest.mark.parametrize(
    "arguments",
    [(name,) for name in COMMANDS]
    + [
        ("kernel", "list"),
        ("kernel", "fetch"),
        ("corpus", "list"),
        ("corpus", "import"),
        ("corpus", "minimise"),
        ("oracle", "build"),
        ("oracle", "list"),
    ],
)
def test_help_has_an_example(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run((*arguments, "--help")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    if arguments not in (("kernel",), ("corpus",), ("oracle",)):
        assert f"  acpitk {' '.join(arguments)}" in out.split("Example", 1)[1]
