"""Standard input and output where a file is meant, and colours."""

from __future__ import annotations

import io
import json
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from acpitk.cli import run
from acpitk.machine import Q35, Case

NODES = ("--node", "0:mem=0-512M", "--node", "1:mem=512M-1G,hotplug")


class _Stdin:
    """Standard input with these bytes."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> bytes:
    """A SRAT and a SLIT, back to back."""
    monkeypatch.chdir(tmp_path)
    assert run(("gen", *NODES)) == 0
    capsys.readouterr()
    return (tmp_path / "srat.bin").read_bytes() + (tmp_path / "slit.bin").read_bytes()


def _pipe(monkeypatch: pytest.MonkeyPatch, data: bytes, *arguments: str) -> int:
    monkeypatch.setattr(sys, "stdin", _Stdin(data))
    return run(arguments)


@pytest.mark.parametrize(
    ("piped", "files"),
    [
        (("decode", "-"), ("decode", "both.bin")),
        (("lint", "-", "--mem", "1G"), ("lint", "both.bin", "--mem", "1G")),
        (
            ("predict", "--srat", "-", "--slit", "-", "--mem", "1G"),
            ("predict", "--srat", "both.bin", "--slit", "both.bin", "--mem", "1G"),
        ),
    ],
    ids=["decode", "lint", "predict"],
)
def test_a_dash_reads_standard_input(
    tables: bytes,
    piped: tuple[str, ...],
    files: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("both.bin").write_bytes(tables)
    status = run(files)
    expected = capsys.readouterr().out.replace("both.bin", "standard input")
    assert _pipe(monkeypatch, tables, *piped) == status
    assert capsys.readouterr().out == expected


def test_a_case_comes_from_standard_input(
    tables: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case(machine=Q35(1 << 30), tables=(tables[:144],), cmdline="movable_node")
    document = json.dumps(case.to_json()).encode()
    for arguments in (("predict", "-"), ("decode", "-"), ("replay", "-")):
        assert _pipe(monkeypatch, document, *arguments) == 0, arguments
    assert "0x20000000-0x40000000" in capsys.readouterr().out


def test_a_topology_comes_from_standard_input(
    tables: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"nodes: {0: {mem: 0-512M}, 1: {mem: ['512M-1G,hotplug']}}"
    assert _pipe(monkeypatch, text, "gen", "--topology", "-", "-o", "new") == 0
    assert (tmp_path / "new" / "srat.bin").read_bytes() == tables[:144]


@pytest.mark.parametrize("data", [b"", b"SRAT", b"{", b"[" * 100_000, b"\xff" * 100])
def test_bad_input_is_one_line_that_names_standard_input(
    data: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ("decode", "-"),
        ("lint", "-"),
        ("predict", "-"),
        ("predict", "--srat", "-", "--mem", "1G"),
    ):
        assert _pipe(monkeypatch, data, *arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert "standard input" in err


def test_gen_writes_one_table_to_standard_output(tables: bytes, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    for arguments, written in (
        ((*NODES, "--only", "SLIT"), tables[144:]),
        (("--from", "srat.bin"), tables[:144]),
    ):
        command = [sys.executable, "-m", "acpitk", "gen", *arguments, "-o", "-"]
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
        assert done.stdout == written
    assert set(tmp_path.iterdir()) == before


def test_a_table_does_not_go_to_a_terminal(tables: bytes) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "acpitk", "gen", "--from", "srat.bin", "-o", "-"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, timeout=60, check=False)
    os.set_blocking(ours, False)
    with pytest.raises(BlockingIOError):
        os.read(ours, 1)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    assert b"terminal" in done.stderr


def test_closed_standard_input_is_one_line(tables: bytes) -> None:
    line = f"exec {shlex.quote(sys.executable)} -m acpitk decode - <&-"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"acpitk: error: standard input is closed: there is nothing to read\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("gen", *NODES, "-o", "-"), "--only"),
        (("gen", *NODES, "--only", "SRAT", "-o", "-", "--json"), "--json"),
        (("gen", "--seed", "1", "--count", "2", "--only", "SRAT", "-o", "-"), "--count"),
        (("gen", *NODES, "--only", "HMAT"), "there is only SRAT, SLIT"),
        (("gen", *NODES, "--scale", "2"), "--preset"),
        (("gen", "--preset", "no-such"), "two-socket"),
        (("gen", "--preset", "nps4", "--node", "0:mem=0-1G"), "one source"),
    ],
)
def test_gen_refuses_what_it_cannot_write(
    tables: bytes, arguments: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("decode", "srat.bin"),
        ("lint", "srat.bin", "--mem", "4G"),
        ("predict", "--srat", "srat.bin", "--mem", "1G"),
        ("fuzz", "--iterations", "5", "--out", "found"),
        ("rule",),
        ("rule", "POL-KERNEL-NODE"),
        ("explain", "--srat", "srat.bin", "--mem", "1G"),
        ("diff", "v6.1", "v7.3"),
        ("kernel", "list"),
        ("doctor",),
        ("gen", "--preset", "list"),
        ("--help",),
    ],
    ids=lambda a: " ".join(a[:2]),
)
def test_nothing_but_text_where_stdout_is_no_terminal(
    tables: bytes,
    arguments: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert run(arguments) in (0, 1)
    assert "\x1b" not in "".join(capsys.readouterr())
