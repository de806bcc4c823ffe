"""Boots a case on a real kernel in QEMU and brings back the console.

Everything a guest needs (tables, initrd, RAM) lives in anonymous memory files, so nothing is left behind
however a boot ends, and no file name of a case ever reaches QEMU. Needs Linux (memfd_create).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache, partial
from pathlib import Path

from acpitk import klog
from acpitk.errors import DecodeError, ToolError, UsageError
from acpitk.machine import Q35, Case
from acpitk.outcome import Outcome
from acpitk.qemu.anatomy import TABLES, anatomy_of
from acpitk.qemu.argv import qemu_argv
from acpitk.qemu.firmware import Firmware, unwritable
from acpitk.qemu.gdb import Debugger
from acpitk.qemu.guest_memory import GuestMemory, observe
from acpitk.qemu.image import KernelImage
from acpitk.qemu.initramfs import padded
from acpitk.qemu.process import Process
from acpitk.ranges import MIB

PROGRAM = "qemu-system-x86_64"
CONSOLE_MAX = 8 * MIB
"""Bytes of console after which a boot counts as never ending."""
_POLL = 0.004
"""Seconds between looks at the console. QEMU writes byte by byte; waking for each would cost as much as
the boot."""
_PANIC_GRACE = 1.0
"""Seconds a kernel that printed a panic or an oops gets for the rest of it, where it does not exit."""


class Marker(StrEnum):
    """How far to boot: the console text at which everything wanted has happened."""

    ZONES = "mem auto-init: "
    """Zones are set up; memblock is still the allocator."""
    MEMORY = "Memory: "
    """Memory was handed to the page allocator; a machine with too little of it panics before or here."""
    ROOT = "VFS: Cannot open root device"
    """All of the kernel's own set-up is done, and a guest without a disk has nothing else to do."""


class BootEnd(StrEnum):
    """How a boot ended."""

    MARKER = "marker"
    PANIC = "panic"
    TIMEOUT = "timeout"
    EXITED = "exited"
    SILENT = "silent"


class Delivery(StrEnum):
    """How the tables of a case get into the guest."""

    ACPITABLE = "acpitable"
    """QEMU adds them to its own, and corrects their length and checksum."""
    GUEST_MEMORY = "guest-memory"
    """They are written where firmware has put its own, as they are (`firmware.Firmware`)."""


class Via(StrEnum):
    """Ways to run a case, best first; see `boots`."""

    FORK = "fork"
    SNAPSHOT = "snapshot"
    FRESH = "fresh"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootResult:
    """One boot.

    Args:
        console: everything the kernel printed, lines ending in "\\n".
        ended: how it ended; EXITED is a reset without a panic message, SILENT a time-out without output.
        seconds: wall time.
        argv: the QEMU arguments, with the memory files as /proc/self/fd/N.
        kernel: the image's name.
        memory: what was read from guest memory; its fields are None where that was not possible.
        via: the way it was run.
        delivery: how its tables got in.
        rerun: why a quicker way was not enough, where one was tried first.
    """

    console: str
    ended: BootEnd
    seconds: float
    argv: tuple[str, ...]
    kernel: str
    memory: GuestMemory
    via: Via = Via.FRESH
    delivery: Delivery = Delivery.ACPITABLE
    rerun: str | None = None

    def to(self, marker: Marker) -> BootResult:
        """The boot as it would have been up to an earlier `marker`; itself where that was not reached."""
        found = _reached(marker).search(self.console.encode())
        if found is None:
            return self
        return replace(self, console=self.console.encode()[: found.end()].decode(), ended=BootEnd.MARKER)

    def outcome(self) -> Outcome:
        """The console and the guest's memory as an `Outcome`."""
        parsed = klog.parse(self.console, kernel=self.kernel, ended=self.ended.value)
        return replace(parsed, zones=self.memory.zones, distances=self.memory.distances)


def find_qemu() -> Path:
    """The QEMU program on PATH.

    Raises:
        ToolError: there is none.
    """
    if found := shutil.which(PROGRAM):
        return Path(found)
    raise ToolError(f"{PROGRAM} is not on PATH: install it (Debian package qemu-system-x86)")


def qemu_version(qemu: Path) -> str:
    """The version QEMU states, for example `7.2.22`.

    Raises:
        ToolError: it does not run or states none.
    """
    try:
        done = subprocess.run([qemu, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{qemu} does not run: {error}") from None
    if match := re.search(r"version (\d[\w.]*)", done.stdout):
        return match[1]
    raise ToolError(f"{qemu} --version does not name a QEMU version")


def boot(
    case: Case,
    image: KernelImage,
    *,
    qemu: Path | None = None,
    timeout: float = 30,
    marker: Marker = Marker.ZONES,
    kaslr: bool = False,
    delivery: Delivery = Delivery.ACPITABLE,
    stop: threading.Event | None = None,
) -> BootResult:
    """Boot `case` on `image` until `marker`, a panic, an exit or `timeout` seconds.

    With `kaslr` its vmlinuz is booted, and places itself at random. With GUEST_MEMORY as
    `delivery`, QEMU's debugger stops the guest where it looks for its tables, and those of the case are put
    there, whatever they are.

    Setting `stop` from another thread ends the boot with a `ToolError`.

    Raises:
        UsageError: the case cannot be given to QEMU, see `argv.undeliverable` and `firmware.unwritable`.
        ToolError: QEMU is missing or did not start the guest.
    """
    if not isinstance(case.machine, Q35):
        raise UsageError("this machine is an explicit memory map; only a Q35 guest can be booted")
    if not hasattr(os, "memfd_create"):
        raise ToolError("booting needs Linux: memory files are not available here")
    qemu = qemu or find_qemu()
    with ExitStack() as files:

        def memory_file(name: str, data: bytes = b"", size: int = 0) -> int:
            fd = os.memfd_create(name)
            files.callback(os.close, fd)
            os.truncate(fd, size or len(data))
            with os.fdopen(os.dup(fd), "wb") as file:
                file.write(data)
            return fd

        patched = delivery is Delivery.GUEST_MEMORY
        if patched and (reason := unwritable(case)) is not None:
            raise UsageError(f"this case cannot be booted: {reason}")
        given = replace(case, tables=()) if patched else case
        tables = [memory_file(f"table{index}", table) for index, table in enumerate(given.tables)]
        initrd = memory_file("initrd", padded(case.machine.initrd)) if case.machine.initrd else None
        ram = memory_file("ram", size=case.machine.memory)
        argv = qemu_argv(
            given,
            qemu=str(qemu),
            kernel=(image.vmlinuz if kaslr else image.path).absolute(),
            kaslr=kaslr,
            table_paths=[_fd_path(fd) for fd in tables],
            initrd=_fd_path(initrd) if initrd is not None else None,
            memory_path=_fd_path(ram),
        )
        begun = time.monotonic()
        fds = [*tables, ram, *([initrd] if initrd is not None else [])]
        meanwhile = None
        if patched:
            ours, theirs = (files.enter_context(end) for end in socket.socketpair())
            fds.append(theirs.fileno())
            argv += ["-S", "-chardev", f"socket,id=gdb,fd={theirs.fileno()}", "-gdb", "chardev:gdb"]
            at = _symbol(image, TABLES)

            def meanwhile(alive: Callable[[], bool]) -> None:
                _patch(case, Debugger(ours), at, ram, timeout, alive)

        console, ended = _run(
            argv,
            fds,
            marker=marker,
            timeout=timeout,
            stop=stop or threading.Event(),
            meanwhile=meanwhile,
        )
        memory = observe(console, partial(_read_ram, ram), machine=case.machine, image=image)
        return BootResult(
            console=console,
            ended=ended,
            seconds=time.monotonic() - begun,
            argv=tuple(argv),
            kernel=image.name,
            memory=memory,
            delivery=delivery,
        )


def _symbol(image: KernelImage, name: str) -> int:
    try:
        symbols = anatomy_of(image).symbols
    except DecodeError as error:
        raise ToolError(f"kernel {image.name}: {error}") from None
    if name not in symbols:
        raise ToolError(f"kernel {image.name} has no {name}()")
    return symbols[name]


def _read_ram(ram: int, offset: int, size: int) -> bytes:
    return os.pread(ram, size, offset)


def _patch(case: Case, guest: Debugger, at: int, ram: int, timeout: float, alive: Callable[[], bool]) -> None:
    """Put the tables of `case` into a guest that has none, once firmware has made its own."""
    guest.stop_at(at)
    guest.go()
    if guest.wait(timeout, alive):
        assert isinstance(case.machine, Q35)  # noqa: S101 (checked by `boot`)
        firmware = Firmware.read(case.machine, partial(_read_ram, ram))
        for offset, data in firmware.writes(case):
            os.pwrite(ram, data, offset)
    guest.no_stop_at(at)
    guest.detach()


def boot_many(
    cases: Iterable[Case], image: KernelImage, *, jobs: int = 1, timeout: float = 30
) -> Iterator[tuple[Case, BootResult]]:
    """Boot every case, `jobs` at a time, in input order. Closing the generator ends the boots under way.

    Raises:
        UsageError, ToolError: as `boot`, at the case they concern.
    """
    qemu, stop = find_qemu(), threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        under_way: deque[tuple[Case, Future[BootResult]]] = deque()
        try:
            for case in cases:
                if len(under_way) > jobs:
                    first, future = under_way.popleft()
                    yield first, future.result()
                started = pool.submit(boot, case, image, qemu=qemu, timeout=timeout, stop=stop)
                under_way.append((case, started))
            while under_way:
                first, future = under_way.popleft()
                yield first, future.result()
        finally:
            stop.set()


def _run(
    argv: list[str],
    fds: list[int],
    *,
    marker: Marker,
    timeout: float,
    stop: threading.Event,
    meanwhile: Callable[[Callable[[], bool]], None] | None = None,
) -> tuple[str, BootEnd]:
    """Run QEMU until the marker or another end; its whole process group is gone when this returns.

    `meanwhile` gets something done first; it is told how to see whether QEMU still runs.
    """
    reached = _reached(marker)
    output, deadline = bytearray(), time.monotonic() + timeout
    with tempfile.TemporaryFile() as errors, _pipe() as (reader, writer):
        process = Process(argv, fds=fds, stdout=writer, stderr=errors)
        try:
            if meanwhile is not None:
                meanwhile(lambda: process.runs() and not stop.is_set())
            line, died, ended = 0, False, None
            while ended is None:
                exited = not process.runs()
                chunk = _read(reader)
                output += chunk
                if match := reached.search(output, line):
                    del output[match.end() :]
                    ended = BootEnd.MARKER
                elif not died and klog.DIED.search(output, line):
                    died, deadline = True, min(deadline, time.monotonic() + _PANIC_GRACE)
                if ended is None and (exited or (died and klog.DEAD.search(output, line))):
                    ended = BootEnd.PANIC if died else BootEnd.EXITED
                if ended is None and (time.monotonic() > deadline or len(output) > CONSOLE_MAX):
                    ended = BootEnd.PANIC if died else BootEnd.TIMEOUT if output else BootEnd.SILENT
                line = output.rfind(b"\n") + 1
                if stop.is_set():
                    raise ToolError("the boot was cancelled")
                if ended is None:
                    time.sleep(_POLL)
        finally:
            status = process.end()
        errors.seek(0)
        complaint = errors.read(4096).decode(errors="replace").strip()
    if not output and status not in (0, -signal.SIGKILL):
        raise ToolError(
            f"{argv[0]} ended with status {status} before the guest printed anything: {complaint}"
        )
    return output.decode(errors="replace").replace("\r\n", "\n"), ended


@lru_cache
def _reached(marker: Marker) -> re.Pattern[bytes]:
    return re.compile(rb"^(?:\[[^]\n]*\] )?%b[^\n]*\n" % marker.value.encode(), re.MULTILINE)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """A pipe with room for a whole console, its reading end non-blocking."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(reader, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, MIB)
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, MIB)
    except BlockingIOError:
        return b""


def _fd_path(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}")
