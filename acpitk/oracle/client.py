"""The worker process of an oracle build: cases in, reports out, many at a time.

Requests and reports lie in memory shared with the worker; a byte on its stdin starts a batch, a byte on its
stdout ends it. A worker that dies is started again, and what it died of is an outcome like any other.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from operator import itemgetter
from pathlib import Path

from acpitk.errors import ToolError
from acpitk.kernel.policy import KernelBuild
from acpitk.machine import Case
from acpitk.oracle.request import MACHINE, REQUEST_MAX, encode

_AREA = 64 << 20
_START = mmap.PAGESIZE
_HEADER = struct.Struct("<QQQ")
_RESPONSE = struct.Struct("<16I")
_TIMEOUT = 30.0
"""Seconds a batch may take; one case has 2 s of CPU time in the worker."""
BATCH = 1024
_DIED = 5


class End(IntEnum):
    """How a run ended: `enum oracle_end` of `shim/oracle.h`; DIED is the worker's own end."""

    DONE = 0
    PANIC = 1
    STUB = 2
    FAULT = 3
    HANG = 4
    DIED = _DIED


@dataclass(frozen=True, slots=True)
class Report:
    """One run, as the worker wrote it.

    Args:
        end: how it ended.
        stage: 1 NUMA is done, 2 the zones are done.
        state, reason: of NUMA, `enum`s of `shim/shim.c`.
        counts: rows of memory, reserved, node data, movable starts, zones, proximity domains; side of the
            distance matrix; possible nodes.
        rows: all of them, 64-bit little-endian, in that order; then the matrix.
        text: what it ended with.
        log: what the kernel printed, where it was asked for.
    """

    end: End
    stage: int
    state: int
    reason: int
    counts: tuple[int, ...]
    rows: bytes
    text: str = ""
    log: str = ""


_NOTHING = (0,) * 8


class Worker:
    """One worker process and its shared memory. Not for several threads; a fork needs its own."""

    def __init__(self, program: Path, build: KernelBuild) -> None:
        self._program, self._build = program, build
        self._pid = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._memory: mmap.mmap | None = None

    def close(self) -> None:
        """End the process; the next case starts another."""
        process, self._process = self._process, None
        if process is not None and self._pid == os.getpid():
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    @property
    def pid(self) -> int:
        """The process, started if it is not there."""
        return self._start()[0].pid

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, case: Case, *, log: bool = False) -> Report:
        """One case."""
        return self._batch([encode(case, self._build, log=log)])[0]

    def ask_many(self, cases: Iterable[Case], *, log: bool = False) -> list[Report]:
        """Many cases, in order. The worker has those of one machine and command line one after the other."""
        requests = [encode(case, self._build, log=log) for case in cases]
        order = sorted(range(len(requests)), key=lambda number: requests[number][MACHINE])
        reports: list[Report] = []
        pending: list[bytes] = []
        size = 0
        for number in order:
            request = requests[number]
            if pending and (size + len(request) > REQUEST_MAX or len(pending) == BATCH):
                reports += self._batch(pending)
                pending, size = [], 0
            pending.append(request)
            size += len(request)
        if pending:
            reports += self._batch(pending)
        return [report for _, report in sorted(zip(order, reports, strict=True), key=itemgetter(0))]

    def _start(self) -> tuple[subprocess.Popen[bytes], mmap.mmap]:
        if self._pid != os.getpid():  # the parent's process is the parent's
            self._pid, self._process, self._memory = os.getpid(), None, None
        if self._process is not None and self._memory is not None and self._process.poll() is None:
            return self._process, self._memory
        self.close()
        shared = os.memfd_create("acpitk-oracle")
        try:
            os.ftruncate(shared, _AREA)
            memory = self._memory = mmap.mmap(shared, _AREA)
            process = self._process = subprocess.Popen(
                [self._program, str(shared)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(shared,),
                env={},
                bufsize=0,
            )
        except OSError as error:
            raise ToolError(f"{self._program} does not run: {error.strerror}") from None
        finally:
            os.close(shared)
        return process, memory

    def _batch(self, requests: Sequence[bytes]) -> list[Report]:
        out: list[Report] = []
        while len(out) < len(requests):
            out += self._some(requests[len(out) :])
        return out

    def _some(self, requests: Sequence[bytes]) -> list[Report]:
        """As many of the requests as the worker answers at once: at least one."""
        process, memory = self._start()
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            raise ToolError("the oracle has no pipes")
        body = b"".join(requests)
        first = _START + (len(body) + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
        memory[_START : _START + len(body)] = body
        memory[: _HEADER.size] = _HEADER.pack(len(body), _AREA - first, 0)
        answered = b""
        with contextlib.suppress(OSError):
            stdin.write(b"\n")
            if select.select([stdout], [], [], _TIMEOUT)[0]:
                answered = stdout.read(1) or b""
        finished = _HEADER.unpack_from(memory)[2]
        out, at = [], first
        for _ in range(finished):
            report, size = _report(memory, at)
            out.append(report)
            at += size
        if not answered:
            process.kill()
            status = process.wait()
            self.close()
            out.append(Report(End.DIED, 0, 0, 0, _NOTHING, b"", f"the worker ended with status {status}"))
        return out


def _report(memory: mmap.mmap, at: int) -> tuple[Report, int]:
    size, end, stage, state, reason, *counts, text, log, _ = _RESPONSE.unpack_from(memory, at)
    last = at + size
    tail = last - (log + 7 & ~7)
    words = tail - (text + 7 & ~7)
    return (
        Report(
            End(end),
            stage,
            state,
            reason,
            tuple(counts),
            memory[at + _RESPONSE.size : words],
            memory[words : words + text].decode("latin-1") if text else "",
            memory[tail : tail + log].decode("latin-1") if log else "",
        ),
        size,
    )
