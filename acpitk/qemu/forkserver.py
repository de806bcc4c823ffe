"""A QEMU stopped with a kernel about to read its memory map, and forked for every case.

The kernel is an image that traps where it is to stop (`anatomy.Patcher`), QEMU is the host's own with
`helper/forkserver.c` preloaded. One server answers for every case whose guest's memory is split like its own:
the memory map, the command line, the initrd and the ACPI tables are written into a copy's RAM before it goes
on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import tempfile
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final, Self, TypeVar

from acpitk.errors import DecodeError, ToolError
from acpitk.machine import Q35, Case
from acpitk.qemu.anatomy import DEAD, ENDS, RESTART, START, Anatomy, Patcher, after_endbr
from acpitk.qemu.argv import qemu_argv
from acpitk.qemu.compiled import compiled
from acpitk.qemu.firmware import Handover, Write
from acpitk.qemu.guest_memory import ReadRam
from acpitk.qemu.image import KernelImage
from acpitk.qemu.initramfs import padded
from acpitk.qemu.process import Process
from acpitk.qemu.stopped import (
    CLOCK,
    HALTED,
    GuestLostError,
    Ran,
    anatomy_for,
    full_cmdline,
    log_of,
    quiet,
    unwind_done,
)

SOURCE: Final = Path(__file__).with_name("helper") / "forkserver.c"
CC_FLAGS: Final = ("-std=gnu11", "-O2", "-shared", "-fPIC")
_CC_LIBRARIES = ("-ldl", "-lrt")
_PORT = 0xE0
"""The helper's first I/O port: a write stops the guest, writes to those behind it are ends."""
_ZERO_PORT = 0xE8
"""The helper's for ranges to be zeroed."""
_SCRATCH = 16
"""Where in a function that returns at once there is room for code."""
_STOPS = (START, *ENDS, RESTART, DEAD)
"""The functions that write to it and those behind it."""
_START_S = 60.0
_ANSWER_S = 30.0
COPY_CPU_S: Final = 1.0
"""CPU seconds a copy may take, fifty times what most take."""
_WALL = 10
"""Wall time a copy gets for each second of CPU time, on a busy machine."""

T = TypeVar("T")

_REQUEST = struct.Struct("<IIIIQ")
_PLACE = struct.Struct("<QQ")
_ANSWER = struct.Struct("<IIQ")


class _Op(IntEnum):
    FORK, WARM, SET, READ, SEAL = range(1, 6)


class _Kind(IntEnum):
    READY, END, HALTED, GONE, FAILED, HELLO = range(1, 7)


def build_helper() -> bytes:
    """The helper, compiled once per source and flags and kept in the cache.

    Raises:
        ToolError: no compiler, or it failed.
    """
    return compiled(SOURCE, CC_FLAGS, _CC_LIBRARIES, what="forking a guest", packages="gcc, libc6-dev")


def trapping(vmlinux: bytes, anatomy: Anatomy) -> bytes:
    """The kernel image with traps where it is to stop.

    Raises:
        ToolError: the kernel lacks a function, or one is built in another way.
    """
    patcher = Patcher(vmlinux, anatomy)
    for port, name in enumerate(_STOPS, start=_PORT):
        (patcher.ends if name == DEAD else patcher.trap)(name, port)
    quiet(patcher)
    patcher.zeroes_by(_ZERO_PORT, patcher.body(CLOCK) + _SCRATCH)
    return bytes(patcher.image)


def probe(qemu: Path) -> None:
    """Whether `qemu` takes the helper.

    Raises:
        ToolError: no compiler, QEMU does not load it, or lacks what it calls.
    """
    with _Channel([str(qemu), "--version"], []) as channel:
        channel.expect(_Kind.HELLO)


class _Channel:
    """A QEMU with the helper, and the socket it talks on."""

    def __init__(self, argv: Sequence[str], fds: Sequence[int]) -> None:
        helper = os.memfd_create("forkserver.so")
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_ANSWER_S)
        try:
            os.write(helper, build_helper())
            with tempfile.TemporaryFile() as errors:
                self._process = Process(
                    argv,
                    fds=[helper, theirs.fileno(), *fds],
                    stderr=errors,
                    env={"LD_PRELOAD": f"/proc/self/fd/{helper}", "ACPITK_FORK_FD": str(theirs.fileno())},
                )
                self._errors = os.dup(errors.fileno())
        except BaseException:
            self._socket.close()
            raise
        finally:
            os.close(helper)
            theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End QEMU and every copy; nothing of them is left."""
        self._socket.close()
        self._process.end()
        with contextlib.suppress(OSError):
            os.close(self._errors)
        self._errors = -1

    def abandon(self) -> None:
        """Close what was inherited, and nothing else."""
        self._socket.close()
        self._process.abandon()

    @property
    def pid(self) -> int:
        """QEMU's process ID."""
        return self._process.pid

    def patience(self, seconds: float) -> None:
        """How long to wait for the next answers."""
        self._socket.settimeout(seconds)

    def send(self, op: _Op, data: Sequence[bytes] = (), *, count: int = 0, cpu: float = 0) -> None:
        """One request."""
        body = b"".join(data)
        wall = int(cpu * 1000 * _WALL)
        self._send(_REQUEST.pack(op, count, int(cpu * 1000), wall, len(body)) + body)

    def answer(self) -> tuple[_Kind, int, int]:
        """The next answer.

        Raises:
            GuestLostError: there is none.
            ToolError: the helper says what is missing.
        """
        kind, value, detail = _ANSWER.unpack(self._receive(_ANSWER.size))
        if kind == _Kind.FAILED:
            raise ToolError(self._receive(min(detail, 1024)).decode(errors="replace"))
        try:
            return _Kind(kind), value, detail
        except ValueError:
            raise GuestLostError(f"answer {kind}") from None

    def expect(self, kind: _Kind) -> tuple[int, int]:
        """The next answer, which has to be of this kind.

        Raises:
            ToolError: there is none or another.
        """
        try:
            got, value, detail = self.answer()
        except GuestLostError as error:
            complaint = os.pread(self._errors, 4096, 0).decode(errors="replace").strip().splitlines()
            raise ToolError(f"QEMU with the helper: {(complaint or [str(error)])[-1]}") from None
        if got is not kind:
            raise ToolError(f"QEMU with the helper answered {got.name} for {kind.name}")
        return value, detail

    def read(self, offset: int, size: int) -> bytes:
        """RAM of a copy at its end."""
        self._send(_PLACE.pack(offset, size))
        return self._receive(size)

    def let_go(self) -> None:
        """No more reads."""
        self._send(_PLACE.pack(0, 0))

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise GuestLostError(str(error)) from None

    def _receive(self, size: int) -> bytes:
        out = bytearray(size)
        view, got = memoryview(out), 0
        while got < size:
            try:
                more = self._socket.recv_into(view[got:])
            except OSError as error:
                raise GuestLostError(str(error)) from None
            if not more:
                raise GuestLostError("it ended")
            got += more
        return bytes(out)


def _packed(writes: Sequence[Write]) -> list[bytes]:
    return [part for offset, data in writes for part in (_PLACE.pack(offset, len(data)), data)]


class Server:
    """One server. Not for two threads at once."""

    def __init__(
        self, machine: Q35, image: KernelImage, *, qemu: Path, warm_with: Sequence[Case] = ()
    ) -> None:
        """Start a guest with the RAM of `machine`, and let it run to the end a few times.

        Args:
            machine: one that `firmware.host_machine` gives.
            warm_with: cases to run first, so that QEMU has translated what they reach.

        Raises:
            ToolError: it cannot be done here; the message says why.
        """
        self.spent = 0
        """CPU time of the last copy that reached an end, microseconds."""
        self._anatomy = anatomy_for(image)
        self.machine = machine
        kernel, initrd = os.memfd_create("vmlinux"), os.memfd_create("initrd")
        try:
            _fill(kernel, trapping(image.path.read_bytes(), self._anatomy))
            _fill(initrd, padded(machine.initrd))
            argv = qemu_argv(
                Case(machine=machine),
                qemu=str(qemu),
                kernel=Path(f"/proc/self/fd/{kernel}"),
                table_paths=(),
                initrd=Path(f"/proc/self/fd/{initrd}"),
            )
            argv[argv.index("-accel") + 1] = "tcg,tb-size=64"
            argv[argv.index("-serial") + 1] = "null"
            self._channel = _Channel(argv, (kernel, initrd))
        finally:
            os.close(kernel)
            os.close(initrd)
        try:
            self._channel.expect(_Kind.HELLO)
            self._channel.patience(_START_S)
            self._channel.expect(_Kind.READY)
            self._prepare(warm_with)
            self._channel.patience(_ANSWER_S)
        except GuestLostError as error:
            self.close()
            raise ToolError(f"QEMU with the helper: {error}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it."""
        self._channel.close()

    def abandon(self) -> None:
        """Let go of it in a process that only inherited it."""
        self._channel.abandon()

    @property
    def pid(self) -> int:
        """QEMU's process ID."""
        return self._channel.pid

    def run(self, case: Case, *, cpu: float = COPY_CPU_S, use: Callable[[Ran], T]) -> T | None:
        """Let a copy run `case`: what `use` makes of its end.

        None where the copy ended by itself or used up its time.

        Raises:
            GuestLostError: the server has to be replaced.
        """
        self._channel.patience(cpu * _WALL + _ANSWER_S)
        writes = self._writes(case)
        self._channel.send(_Op.FORK, _packed(writes), count=len(writes), cpu=cpu)
        try:
            kind, value, _ = self._channel.answer()
            if kind is _Kind.GONE:
                return None
            made = use(self._ran(case, kind, value))
            self._channel.let_go()
            kind, _, self.spent = self._channel.answer()
        except (ToolError, DecodeError) as error:
            raise GuestLostError(str(error)) from None
        if kind is not _Kind.GONE:
            raise GuestLostError(f"answer {kind.name}")
        return made

    def _writes(self, case: Case) -> list[Write]:
        return self._handover.writes(case, full_cmdline(case))

    def _ran(self, case: Case, kind: _Kind, value: int) -> Ran:
        end = HALTED if kind is _Kind.HALTED else _STOPS[value]
        return Ran(log_of(case, self._handover, self._channel.read), end, self._channel.read)

    def _prepare(self, warm_with: Sequence[Case]) -> None:
        """Learn where everything is and what unwind_init() comes to; then run `warm_with`."""
        anatomy, channel = self._anatomy, self._channel
        channel.send(_Op.READ)
        self._handover = Handover.read(self.machine, anatomy, channel.read)
        body = anatomy.symbols["unwind_init"]
        body += after_endbr(channel.read(anatomy.physical("unwind_init"), 4))
        channel.let_go()
        done: list[Write] = []
        self._warm([], lambda read: done.extend(unwind_done(anatomy, body, read)))
        channel.send(_Op.SET, _packed(done), count=len(done))
        channel.expect(_Kind.GONE)
        for case in warm_with:
            self._warm(self._writes(case))
        channel.send(_Op.SEAL)
        channel.expect(_Kind.GONE)

    def _warm(self, writes: Sequence[Write], use: Callable[[ReadRam], None] = lambda _: None) -> None:
        """Let the server itself run to an end and back."""
        channel = self._channel
        channel.send(_Op.WARM, _packed(writes), count=len(writes))
        channel.expect(_Kind.END)
        use(channel.read)
        channel.let_go()
        channel.expect(_Kind.GONE)


def _fill(fd: int, data: bytes) -> None:
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
