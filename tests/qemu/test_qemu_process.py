"""What starts and ends QEMU, on programs that every machine has."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from acpitk.errors import ToolError
from acpitk.qemu.process import Process

_HOST = """
import sys, time
from acpitk.qemu.process import Process
process = Process(["sh", "-c", "sleep 60 & sleep 60"])
print(process.pid, flush=True)
time.sleep(60)
"""
_SIGNALLED = """
import os, signal, sys, threading, time
from pathlib import Path
from acpitk.qemu.process import Process

def leave(number, frame):
    sys.exit(3)

def send():
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while not (pids := children.read_text()):
        pass
    print(pids, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, leave)
threading.Thread(target=send).start()
time.sleep(0.01)
process = Process(["sleep", "60"])
time.sleep(60)
"""


def test_it_ends_with_all_it_started(all_ended: Callable[[int], bool]) -> None:
    process = Process(["sh", "-c", "sleep 60 & sleep 60"])
    assert process.runs()
    assert process.end() == process.end() == -signal.SIGKILL
    assert not process.runs()
    assert all_ended(process.pid)


def test_it_becomes_its_arguments_with_the_environment_asked_for(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        process = Process(["printenv", "A", "B"], stdout=out, env={"A": "$(id) 'a b'", "B": "--"})
        while process.runs():
            time.sleep(0.01)
    assert process.end() == 0
    assert (tmp_path / "out").read_text() == "$(id) 'a b'\n--\n"


def test_a_program_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"no-qemu does not start: there is no such program"):
        Process([str(tmp_path / "no-qemu")])


def test_it_ends_when_its_host_is_killed(
    running_in: Callable[[int], list[int]], all_ended: Callable[[int], bool]
) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOST], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        session = int(host.stdout.readline())
        assert running_in(session)
        host.kill()
    assert all_ended(session)


def test_a_signal_that_comes_while_it_starts_leaves_nothing_behind(all_ended: Callable[[int], bool]) -> None:
    for _ in range(5):
        host = subprocess.run(
            [sys.executable, "-c", _SIGNALLED], capture_output=True, text=True, timeout=30, check=False
        )
        assert host.returncode == 3, host.stderr
        assert all(all_ended(int(pid)) for pid in host.stdout.split())
