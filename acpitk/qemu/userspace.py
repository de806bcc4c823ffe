"""A guest booted to userspace whose files can be read and written, and its devices changed, while it runs.

Userspace is one process of about 2 KB, `guest/init.c`, compiled here; it answers file commands. QEMU's own
monitor (QMP) is a socket. Tables, RAM, console and initrd live in memory files.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from errno import errorcode
from pathlib import Path
from typing import Any

from acpitk import klog
from acpitk.errors import ToolError, UsageError
from acpitk.machine import Q35, Case
from acpitk.qemu.argv import qemu_argv
from acpitk.qemu.compiled import compiled
from acpitk.qemu.image import KernelImage
from acpitk.qemu.initramfs import Entry, archive
from acpitk.qemu.process import Process
from acpitk.qemu.runner import find_qemu

SOURCE = Path(__file__).with_name("guest") / "init.c"
CC_FLAGS = (
    *("-std=gnu11", "-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-pie", "-no-pie", "-s"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-fno-ident"),
    *("-Wl,--build-id=none", "-Wl,-z,noseparate-code", "-Wl,-z,norelro"),
)
CMDLINE = (
    "rdinit=/init cryptomgr.notests initcall_blacklist=load_system_certificate_list"
    ' dyndbg="func offline_pages +p"'
)
"""What booting to userspace adds: no self-tests of ciphers, which take half the time, and words for why a
memory block cannot be offlined."""

_ANSWER_MAX = 1 << 20
_TTY_S0 = (4, 64)
_STEP = 0.2
"""Seconds between looks at whether the guest still lives."""


class GuestDiedError(Exception):
    """The guest panicked, exited or stopped answering; `end` is klog's word for how it ended."""

    def __init__(self, end: str) -> None:
        super().__init__(end)
        self.end = end


@dataclass(frozen=True, slots=True)
class FileError:
    """A file command that failed: errno and its name."""

    number: int

    @property
    def name(self) -> str:
        """The constant, for example `EBUSY`."""
        return errorcode.get(self.number, f"errno {self.number}")


def build_init() -> bytes:
    """The guest's init program, compiled once per source and flags and kept in the cache.

    Raises:
        ToolError: no compiler, or it failed.
    """
    return compiled(SOURCE, CC_FLAGS, what="booting to userspace", packages="gcc, linux-libc-dev")


def initrd(extra: bytes = b"") -> bytes:
    """The initrd with the init program; `extra` is an archive in front of it (firmware tables).

    Raises:
        ToolError: as `build_init`.
    """
    directory = stat.S_IFDIR | 0o755
    return extra + archive(
        (
            Entry(name="dev", mode=directory),
            Entry(name="dev/ttyS0", mode=stat.S_IFCHR | 0o600, device=_TTY_S0),
            Entry(name="init", mode=stat.S_IFREG | 0o755, data=build_init()),
        )
    )


def with_initrd(case: Case, size: int) -> Case:
    """The case that is really booted: an initrd of `size` bytes, or the case's own where that is larger.

    Raises:
        UsageError: not a Q35 guest.
    """
    if not isinstance(case.machine, Q35):
        raise UsageError("this machine is an explicit memory map; only a Q35 guest can be booted")
    return replace(case, machine=replace(case.machine, initrd=max(case.machine.initrd, size)))


class Guest:
    """A running guest whose userspace answers. Made by `running`."""

    def __init__(
        self, keyboard: int, files: socket.socket, monitor: socket.socket, console: Callable[[], str]
    ) -> None:
        self._keyboard, self._files, self._monitor, self._console = keyboard, files, monitor, console
        self.deadline = 0.0
        self.alive: Callable[[], bool] = lambda: True
        self.stop = threading.Event()
        self._pending = {files: bytearray(), monitor: bytearray()}
        self._events: list[dict[str, Any]] = []

    @property
    def console(self) -> str:
        """Everything the kernel printed so far."""
        return self._console()

    def read(self, path: str) -> str | FileError:
        """A file's contents."""
        return self._ask(f"r {path}")

    def names(self, directory: str) -> list[str]:
        """Names in a directory, sorted; empty where it cannot be read."""
        found = self._ask(f"l {directory}")
        return [] if isinstance(found, FileError) else sorted(found.split("\n")[:-1])

    def each(self, directory: str, file: str) -> dict[str, str]:
        """name -> contents of `directory/name/file`, for those that have it."""
        found = self._ask(f"e {directory} {file}")
        if isinstance(found, FileError):
            return {}
        rows = (line.partition(" ") for line in found.split("\n")[:-1])
        return {name: value for name, _, value in rows}

    def write(self, path: str, text: str) -> FileError | None:
        """Write `text` to a file; None where the kernel took it."""
        answer = self._ask(f"w {path} {text}")
        return answer if isinstance(answer, FileError) else None

    def greeting(self) -> None:
        """Wait until userspace runs."""
        self._answer()

    def monitor(self, execute: str, **arguments: object) -> Any:
        """One QMP command, its return value.

        Raises:
            ToolError: QEMU refused it.
        """
        request = {"execute": execute, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}
        self._monitor.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = json.loads(self._line(self._monitor))
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise ToolError(f"QEMU refused {execute}: {message['error'].get('desc')}")
            self._events.append(message)

    def event(self, judge: Callable[[str, Mapping[str, Any]], bool | None]) -> bool:
        """Wait for the first QMP event about which `judge(name, data)` has an opinion, and return that."""
        while True:
            while self._events:
                message = self._events.pop(0)
                if (verdict := judge(str(message.get("event")), message.get("data", {}))) is not None:
                    return verdict
            self._events.append(json.loads(self._line(self._monitor)))

    def _ask(self, command: str) -> str | FileError:
        os.write(self._keyboard, command.encode() + b"\n")
        return self._answer()

    def _answer(self) -> str | FileError:
        error, _, size = self._line(self._files).decode().partition(" ")
        data = self._take(self._files, int(size))
        return FileError(int(error)) if int(error) else data.decode(errors="replace")

    def _line(self, source: socket.socket) -> bytes:
        pending = self._pending[source]
        while b"\n" not in pending:
            self._more(source)
        return self._take(source, pending.index(b"\n") + 1)

    def _take(self, source: socket.socket, size: int) -> bytes:
        pending = self._pending[source]
        if size > _ANSWER_MAX:
            raise GuestDiedError("hang")
        while len(pending) < size:
            self._more(source)
        taken = bytes(pending[:size])
        del pending[:size]
        return taken

    def _more(self, source: socket.socket) -> None:
        """Wait for bytes, and meanwhile watch whether there is anybody to send them."""
        while True:
            try:
                data = source.recv(1 << 16)
            except TimeoutError:
                data = None
            if data:
                self._pending[source] += data
                return
            if self.stop.is_set():
                raise ToolError("the boot was cancelled")
            if data == b"" or not self.alive():
                raise GuestDiedError("exited")
            if klog.DEAD.search(self.console.encode()):
                raise GuestDiedError("panic")
            if time.monotonic() > self.deadline:
                raise GuestDiedError("timeout" if self.console else "silent")


@contextlib.contextmanager
def running(
    case: Case,
    image: KernelImage,
    *,
    initrd: bytes,
    qemu: Path | None = None,
    timeout: float = 60,
    stop: threading.Event | None = None,
    edit: Callable[[list[str]], list[str]] = list,
) -> Iterator[Guest]:
    """Start `case`; its QEMU and everything it used are gone when the block ends, however it ends.

    Args:
        case: of a Q35 machine whose initrd has at least `len(initrd)` bytes.
        initrd: what goes there, zeros after it.
        timeout: seconds for everything inside the block.
        edit: changes the QEMU arguments, for a guest `qemu_argv` does not know.

    Raises:
        UsageError, ToolError: as `runner.boot`.
    """
    if not isinstance(case.machine, Q35):
        raise UsageError("this machine is an explicit memory map; only a Q35 guest can be booted")
    if not hasattr(os, "memfd_create"):
        raise ToolError("booting needs Linux: memory files are not available here")
    qemu = qemu or find_qemu()
    with ExitStack() as resources:
        fds: list[int] = []

        def memory_file(name: str, data: bytes = b"", size: int = 0) -> int:
            fd = os.memfd_create(name)
            resources.callback(os.close, fd)
            os.truncate(fd, size or len(data))
            os.pwrite(fd, data, 0)
            fds.append(fd)
            return fd

        def pair() -> tuple[socket.socket, int]:
            ours, theirs = (resources.enter_context(end) for end in socket.socketpair())
            ours.settimeout(_STEP)
            fds.append(theirs.fileno())
            return ours, theirs.fileno()

        tables = [memory_file(f"table{index}", table) for index, table in enumerate(case.tables)]
        archive_fd = memory_file("initrd", initrd.ljust(case.machine.initrd, b"\0"))
        ram = memory_file("ram", size=case.machine.memory)
        console, errors = memory_file("console"), memory_file("errors")
        (files, files_fd), (monitor, monitor_fd) = pair(), pair()
        stdin, keyboard = os.pipe()
        resources.callback(os.close, stdin)
        resources.callback(os.close, keyboard)
        argv = edit(
            qemu_argv(
                replace(case, cmdline=f"{CMDLINE} {case.cmdline}".rstrip()),
                qemu=str(qemu),
                kernel=image.path.absolute(),
                table_paths=[Path(f"/proc/self/fd/{fd}") for fd in tables],
                initrd=Path(f"/proc/self/fd/{archive_fd}"),
                memory_path=Path(f"/proc/self/fd/{ram}"),
                extra=(
                    *("-chardev", f"socket,id=files,fd={files_fd}"),
                    *("-device", "isa-debugcon,iobase=0xe9,chardev=files"),
                    *("-chardev", f"socket,id=qmp,fd={monitor_fd}", "-mon", "chardev=qmp,mode=control"),
                ),
            )
        )

        def text() -> str:
            size = os.fstat(console).st_size
            return os.pread(console, size, 0).decode(errors="replace").replace("\r\n", "\n")

        guest = Guest(keyboard, files, monitor, text)
        guest.stop, guest.deadline = stop or guest.stop, time.monotonic() + timeout
        process = Process(argv, fds=fds, stdin=stdin, stdout=console, stderr=errors)
        try:
            guest.alive = process.runs
            yield guest
        finally:
            status = process.end()
            if status not in (0, -signal.SIGKILL) and not text():
                said = os.pread(errors, 4096, 0).decode(errors="replace").strip()
                raise ToolError(f"{argv[0]} ended with status {status} before the guest ran: {said}")
