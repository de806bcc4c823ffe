"""A QEMU stopped with a kernel about to read its memory map, and taken back there after every case.

Needs no compiler: QEMU's debugger stops the guest and sets the CPU's registers, and its RAM is a file in
which this process puts back what a case has changed. Devices are left as a case leaves them: up to its end
the kernel only asks those it has set up itself. Of the CPU, the debugger does not know the descriptor tables;
a few bytes of code in the guest load them.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from acpitk.errors import DecodeError, ToolError
from acpitk.machine import Q35, Case
from acpitk.qemu.anatomy import DEAD, ENDS, RESTART, START, Patcher
from acpitk.qemu.argv import qemu_argv
from acpitk.qemu.firmware import Handover
from acpitk.qemu.gdb import Debugger
from acpitk.qemu.image import KernelImage
from acpitk.qemu.initramfs import padded
from acpitk.qemu.process import Process
from acpitk.qemu.stopped import (
    CLOCK,
    GuestLostError,
    Ran,
    anatomy_for,
    full_cmdline,
    log_of,
    quiet,
    unwind_done,
)
from acpitk.ranges import align_down, align_up

T = TypeVar("T")
CASE_S = 10.0
"""Seconds a case may take, many times what most take."""
_START_S = 60.0
_CHUNK = 1 << 16
_PAGE = 4096
_RIP = slice(16 * 16, 17 * 16)
"""The 17th of the debugger's registers, 8 bytes in hexadecimal."""
_SCRATCH = 16
"""Where in a function that returns at once the code and the descriptor tables' registers are kept."""


class Snapshot:
    """One guest. Not for two threads at once."""

    def __init__(self, machine: Q35, image: KernelImage, *, qemu: Path) -> None:
        """Start a guest with the RAM of `machine` and take it to the stop.

        Raises:
            ToolError: it cannot be done here; the message says why.
        """
        self._anatomy = anatomy = anatomy_for(image)
        patcher = Patcher(image.path.read_bytes(), anatomy)
        quiet(patcher)
        self._ends = {patcher.body(name): name for name in (*ENDS, RESTART, DEAD)}
        self._start, self._unwind = patcher.body(START), patcher.body("unwind_init")
        self._once = patcher.body(CLOCK) + _SCRATCH
        code, self._again = _descriptor_code(self._once, self._start)
        patcher.write(self._once, code)
        files = [os.memfd_create(name) for name in ("vmlinux", "initrd", "ram")]
        self._ram = files[2]
        ours, theirs = socket.socketpair()
        try:
            for fd, data in zip(files[:2], (bytes(patcher.image), padded(machine.initrd)), strict=True):
                with os.fdopen(os.dup(fd), "wb") as file:
                    file.write(data)
            os.truncate(self._ram, machine.memory)
            kernel, initrd, ram = (Path(f"/proc/self/fd/{fd}") for fd in files)
            argv = qemu_argv(
                Case(machine=machine),
                qemu=str(qemu),
                kernel=kernel,
                table_paths=(),
                initrd=initrd,
                memory_path=ram,
                extra=("-S", "-chardev", f"socket,id=gdb,fd={theirs.fileno()}", "-gdb", "chardev:gdb"),
            )
            argv[argv.index("-serial") + 1] = "null"
            with tempfile.TemporaryFile() as errors:
                self._process = Process(argv, fds=[*files, theirs.fileno()], stderr=errors)
        except BaseException:
            ours.close()
            os.close(self._ram)
            raise
        finally:
            os.close(files[0])
            os.close(files[1])
            theirs.close()
        self._socket, self._guest = ours, Debugger(ours)
        self._memory = mmap.mmap(self._ram, machine.memory)
        try:
            self._prepare(machine)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it; nothing of it is left."""
        self._socket.close()
        self._process.end()
        self._memory.close()
        with contextlib.suppress(OSError):
            os.close(self._ram)
        self._ram = -1

    def abandon(self) -> None:
        """Let go of it in a process that only inherited it."""
        self._socket.close()
        self._process.abandon()
        self._memory.close()

    @property
    def pid(self) -> int:
        """The process ID of the session that QEMU runs in."""
        return self._process.pid

    def run(self, case: Case, *, use: Callable[[Ran], T]) -> T | None:
        """Run `case` from the stop on: what `use` makes of its end; None where it comes to none in time.

        Raises:
            GuestLostError: the guest has to be replaced.
        """
        try:
            self._go_back()
            for offset, data in self._handover.writes(case, full_cmdline(case)):
                self._memory[offset : offset + len(data)] = data
            if (end := self._run()) is None:
                raise _SlowError
            return use(Ran(log_of(case, self._handover, self._read), end, self._read))
        except _SlowError:
            self._guest.interrupt()
            if not self._guest.wait(_START_S, self._alive):
                raise GuestLostError("it cannot be stopped") from None
            return None
        except (ToolError, DecodeError, OSError) as error:
            raise GuestLostError(str(error)) from None

    def _prepare(self, machine: Q35) -> None:
        """Go to the stop, and once to an end to learn what unwind_init() comes to."""
        guest, anatomy = self._guest, self._anatomy
        for address in (self._start, *self._ends):
            guest.stop_at(address)
        guest.go()
        if not guest.wait(_START_S, self._alive):
            raise ToolError("the kernel does not get to where it is to stop")
        self._handover = Handover.read(machine, anatomy, self._read)
        registers = guest.registers()
        if struct.unpack("<Q", bytes.fromhex(registers[_RIP]))[0] != self._start:
            raise ToolError("the kernel stopped elsewhere")
        guest.set_registers(self._with_rip(registers, self._once))
        guest.go()
        if not guest.wait(_START_S, self._alive):
            raise ToolError("the kernel does not keep its descriptor tables")
        guest.no_stop_at(self._start)
        self._keep()
        guest.go()
        if not guest.wait(_START_S, self._alive):
            raise ToolError("the kernel does not get to the zones")
        done = unwind_done(anatomy, self._unwind, self._read)
        self._registers = self._with_rip(registers, self._again)
        self._go_back()
        guest.write(self._unwind, done[-1][1])
        for offset, data in done:
            self._memory[offset : offset + len(data)] = data
        self._keep()

    def _run(self) -> str | None:
        """Go on to an end: which."""
        self._guest.go()
        if not self._guest.wait(CASE_S, self._alive):
            return None
        (rip,) = struct.unpack("<Q", bytes.fromhex(self._guest.registers()[_RIP]))
        return self._ends.get(rip, f"stopped at {rip:#x}")

    def _go_back(self) -> None:
        """Everything as it was at the stop."""
        self._restore()
        self._guest.set_registers(self._registers)

    @staticmethod
    def _with_rip(registers: str, address: int) -> str:
        return registers[: _RIP.start] + struct.pack("<Q", address).hex() + registers[_RIP.stop :]

    def _keep(self) -> None:
        """Remember RAM: the chunks that are not zero."""
        self._kept = {
            at: data
            for start, end in self._populated()
            for at in range(start, end, _CHUNK)
            if any(data := self._memory[at : at + _CHUNK])
        }

    def _restore(self) -> None:
        """Put back the chunks that have changed; code by the debugger, so that QEMU translates it again."""
        for start, end in self._populated():
            for at in range(start, end, _CHUNK):
                kept = self._kept.get(at)
                if kept is None:
                    self._memory.madvise(mmap.MADV_REMOVE, at, min(_CHUNK, end - at))
                elif (now := self._memory[at : at + _CHUNK]) != kept:
                    self._restore_code(at, now, kept)
                    self._memory[at : at + _CHUNK] = kept

    def _restore_code(self, at: int, now: bytes, kept: bytes) -> None:
        for start, end in self._anatomy.code:
            for page in range(max(at, start), min(at + _CHUNK, end), _PAGE):
                before = kept[page - at : page - at + _PAGE]
                if before != now[page - at : page - at + _PAGE]:
                    self._guest.write(page + self._anatomy.offset, before)

    def _populated(self) -> Iterator[tuple[int, int]]:
        """The parts of RAM that the host has given memory to, in whole chunks."""
        at, size = 0, len(self._memory)
        while at < size:
            try:
                data = os.lseek(self._ram, at, os.SEEK_DATA)
            except OSError:
                return
            hole = os.lseek(self._ram, data, os.SEEK_HOLE)
            at = min(align_up(hole, _CHUNK), size)
            yield align_down(data, _CHUNK), at

    def _read(self, offset: int, size: int) -> bytes:
        return self._memory[offset : offset + size]

    def _alive(self) -> bool:
        return self._process.runs()


class _SlowError(Exception):
    """A case came to no end in time."""


def _descriptor_code(address: int, start: int) -> tuple[bytes, int]:
    """Code for `address`: it keeps GDTR and IDTR, goes on at `start`; and the address of what loads them."""
    gdt, idt = address + 64, address + 80

    def table(opcode: bytes, at: int, place: int) -> bytes:
        return opcode + struct.pack("<i", place - (at + 7))

    def jump(at: int) -> bytes:
        return b"\xe9" + struct.pack("<i", start - (at + 5))

    keep = table(b"\x0f\x01\x05", address, gdt) + table(b"\x0f\x01\x0d", address + 7, idt)
    load_at = address + 32
    load = table(b"\x0f\x01\x15", load_at, gdt) + table(b"\x0f\x01\x1d", load_at + 7, idt)
    code = (keep + jump(address + 14)).ljust(32, b"\x90") + load + jump(load_at + 14)
    return code.ljust(96, b"\0"), load_at


def check(image: KernelImage) -> None:
    """Whether the kernel can be stopped and quieted.

    Raises:
        ToolError: it cannot.
    """
    quiet(Patcher(image.path.read_bytes(), anatomy_for(image)))
