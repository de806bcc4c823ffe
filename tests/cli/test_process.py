"""The program as a process: pipes that close, disks that are full, interrupts, terminals."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = (sys.executable, "-m", "acpitk")
NODES = ("--node", "0:mem=0-512M", "--node", "1:mem=512M-1G,hotplug")


def _run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_status_and_streams(tmp_path: Path) -> None:
    done = _run("gen", *NODES, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = _run("decode", "missing", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    done = _run("--version", cwd=tmp_path)
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PROGRAM, "kernel", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "acpitk: error: No space left on device\n"


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    assert _run("gen", *NODES, cwd=tmp_path).returncode == 0
    process = subprocess.Popen(
        [*PROGRAM, "decode", *["srat.bin"] * 200],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 2


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupt_saves_what_was_found(tmp_path: Path, jobs: str) -> None:
    process = subprocess.Popen(
        [
            *PROGRAM,
            "fuzz",
            "--iterations",
            "1000000",
            "--seed",
            "1",
            "--jobs",
            jobs,
            "--out",
            "found",
            "--json",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("found/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    document = json.loads(out)
    assert 0 < document["iterations"] < 1_000_000
    assert {Path(f["case"]).name for f in document["findings"]} == {
        path.name for path in (tmp_path / "found").glob("*.json")
    }
    assert "Traceback" not in err


def test_file_names_that_are_not_text_are_printed_as_they_are(tmp_path: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "gen", *NODES, "-o", b"\xff"], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"file=\xff/srat.bin" in done.stdout


@pytest.mark.parametrize(("extra", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
@pytest.mark.parametrize(
    "arguments",
    [("lint", "srat.bin", "--mem", "2G"), ("predict", "--srat", "srat.bin", "--mem", "2G")],
    ids=lambda arguments: arguments[0],
)
def test_colour_only_on_a_terminal_that_wants_it(
    tmp_path: Path, arguments: tuple[str, ...], extra: dict[str, str], coloured: bool
) -> None:
    assert _run("gen", *NODES, cwd=tmp_path).returncode == 0
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=tmp_path,
        stdout=theirs,
        env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm-256color", **extra},
    )
    os.close(theirs)
    seen = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            seen += os.read(ours, 4096)
        except OSError:  # the other end is closed: that is all
            break
    os.close(ours)
    assert process.wait(60) == 1
    assert (b"\x1b[3" in seen or b"\x1b[1;3" in seen) is coloured
