"""A QEMU stopped with a kernel about to read its memory map, and forked for every case.

The kernel is an image that traps where it is to stop (`anatomy.Patcher`), QEMU is the host's own with
`helper/forkserver.c` preloaded. One server answers for every case whose guest's memory is split like its own:
the memory map, the command line, the initrd and the ACPI tables are written into a copy's RAM before it goes on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from acpitk.errors import DecodeError, ToolError
from acpitk.machine import Q35, Case
from acpitk.qemu.anatomy import ENDS, RESTART, START, Anatomy, Patcher, anatomy_of
from acpitk.qemu.argv import CMDLINE, qemu_argv
from acpitk.qemu.firmware import CMDLINE_SHOWN, Handover, Write, host_machine, unwritable
from acpitk.qemu.image import KernelImage, cache_dir
from acpitk.qemu.initramfs import padded
from acpitk.qemu.printk import BUFFER, DESCRIPTORS, INFOS, RING, console_text, read_ring

SOURCE: Final = Path(__file__).with_name("helper") / "forkserver.c"
CC_FLAGS: Final = ("-std=gnu11", "-O2", "-shared", "-fPIC")
_CC_LIBRARIES = ("-ldl", "-lrt")
_PORT = 0xE8
"""The helper's first I/O port: a write stops the guest, writes to those behind it are ends."""
_TSC_KHZ = 1_000_000
"""What the kernel is told its clock runs at: measuring takes longer than all the rest."""
_START_S = 60.0
_ANSWER_S = 30.0
COPY_CPU_S: Final = 3.0
"""CPU seconds a copy may take, a hundred times what most take."""
_WALL = 10
"""Wall time a copy gets for each second of CPU time, on a busy machine."""

_REQUEST = struct.Struct("<IIIIQ")
_PLACE = struct.Struct("<QQ")
_ANSWER = struct.Struct("<IIQ")


class _Op(IntEnum):
    FORK, WARM, SET, READ, SEAL = range(1, 6)


class _Kind(IntEnum):
    READY, END, HALTED, GONE, FAILED, HELLO = range(1, 7)


class ServerDiedError(Exception):
    """The server does not answer, or answers nonsense."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a copy that reached an end.

    Args:
        console: the log; None where it outgrew printk's buffer.
        end: the function it was stopped in, `halted` for a CPU that will not run again.
        read: reads RAM; only until the copy is let go.
    """

    console: str | None
    end: str
    read: Callable[[int, int], bytes]


def build_helper() -> bytes:
    """The helper, compiled once per source and flags and kept in the cache.

    Raises:
        ToolError: no compiler, or it failed.
    """
    source = SOURCE.read_bytes()
    key = sha256(b"\0".join((source, *(flag.encode() for flag in (*CC_FLAGS, *_CC_LIBRARIES))))).hexdigest()
    kept = cache_dir() / "helper" / f"forkserver-{key[:32]}.so"
    with contextlib.suppress(OSError):
        if (program := kept.read_bytes()).startswith(b"\x7fELF"):
            return program
    if (compiler := shutil.which("gcc") or shutil.which("cc")) is None:
        raise ToolError("it takes a C compiler (Debian: gcc, libc6-dev)")
    with tempfile.TemporaryDirectory(prefix="acpitk-") as directory:
        out = Path(directory) / "forkserver.so"
        argv = [compiler, "-x", "c", *CC_FLAGS, "-o", str(out), "-", *_CC_LIBRARIES]
        try:
            done = subprocess.run(argv, input=source, capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolError(f"{compiler} does not run: {error}") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise ToolError(
                f"{compiler} cannot compile the helper (Debian: gcc, libc6-dev): {(said or ['no message'])[0]}"
            )
        program = out.read_bytes()
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        staging = kept.with_name(f"{kept.name}.{os.getpid()}")
        staging.write_bytes(program)
        staging.replace(kept)
    return program


def trapping(vmlinux: bytes, anatomy: Anatomy) -> bytes:
    """The kernel image with traps where it is to stop, no serial output, and a clock it need not measure.

    Raises:
        ToolError: the kernel lacks a function, or one is built in another way.
    """
    patcher = Patcher(vmlinux, anatomy)
    for port, name in enumerate((START, *ENDS, RESTART), start=_PORT):
        patcher.trap(name, port)
    patcher.returns("early_serial_write")
    patcher.returns("native_calibrate_cpu_early", _TSC_KHZ)
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
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=[helper, theirs.fileno(), *fds],
                    env=os.environ
                    | {"LD_PRELOAD": f"/proc/self/fd/{helper}", "ACPITK_FORK_FD": str(theirs.fileno())},
                    start_new_session=True,
                )
                self._errors = os.dup(errors.fileno())
        except OSError as error:
            self._socket.close()
            raise ToolError(f"{argv[0]} does not start: {error.strerror}") from None
        except ToolError:
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
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(OSError):
            os.close(self._errors)
        self._errors = -1

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
            ServerDiedError: there is none.
            ToolError: the helper says what is missing.
        """
        kind, value, detail = _ANSWER.unpack(self._receive(_ANSWER.size))
        if kind == _Kind.FAILED:
            raise ToolError(self._receive(min(detail, 1024)).decode(errors="replace"))
        try:
            return _Kind(kind), value, detail
        except ValueError:
            raise ServerDiedError(f"answer {kind}") from None

    def expect(self, kind: _Kind) -> tuple[int, int]:
        """The next answer, which has to be of this kind.

        Raises:
            ToolError: there is none or another.
        """
        try:
            got, value, detail = self.answer()
        except ServerDiedError as error:
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
            raise ServerDiedError(str(error)) from None

    def _receive(self, size: int) -> bytes:
        out = bytearray(size)
        view, got = memoryview(out), 0
        while got < size:
            try:
                more = self._socket.recv_into(view[got:])
            except OSError as error:
                raise ServerDiedError(str(error)) from None
            if not more:
                raise ServerDiedError("it ended")
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
        try:
            self._anatomy = anatomy_of(image)
        except DecodeError as error:
            raise ToolError(f"kernel {image.name}: {error}") from None
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
        except ServerDiedError as error:
            self.close()
            raise ToolError(f"QEMU with the helper: {error}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it."""
        self._channel.close()

    @property
    def pid(self) -> int:
        """QEMU's process ID."""
        return self._channel.pid

    def run(self, case: Case, *, cpu: float = COPY_CPU_S, use: Callable[[Ran], None]) -> int | None:
        """Let a copy run `case` and call `use` at its end; the copy's CPU time in microseconds.

        None where the copy ended by itself or used up its time.

        Raises:
            ServerDiedError: the server has to be replaced.
        """
        self._channel.patience(cpu * _WALL + _ANSWER_S)
        writes = self._writes(case)
        self._channel.send(_Op.FORK, _packed(writes), count=len(writes), cpu=cpu)
        try:
            kind, value, _ = self._channel.answer()
            if kind is _Kind.GONE:
                return None
            try:
                use(self._ran(case, kind, value))
            finally:
                self._channel.let_go()
            kind, _, spent = self._channel.answer()
        except ToolError as error:
            raise ServerDiedError(str(error)) from None
        if kind is not _Kind.GONE:
            raise ServerDiedError(f"answer {kind.name}")
        return spent

    def _writes(self, case: Case) -> list[Write]:
        return self._handover.writes(case, f"{CMDLINE} {case.cmdline}".rstrip())

    def _ran(self, case: Case, kind: _Kind, value: int) -> Ran:
        end = "halted" if kind is _Kind.HALTED else (START, *ENDS, RESTART)[value]
        return Ran(self._console(case), end, self._channel.read)

    def _console(self, case: Case) -> str | None:
        anatomy, read = self._anatomy, self._channel.read
        layout = anatomy.log
        ring = read_ring(read(anatomy.physical(RING), layout.ring_size), layout)
        if ring.records is None:
            return None
        text = console_text(
            ring.records,
            layout,
            descriptors=read(anatomy.physical(DESCRIPTORS), ring.records * layout.desc_size),
            infos=read(anatomy.physical(INFOS), ring.records * layout.info_size),
            text=read(anatomy.physical(BUFFER), ring.bytes),
        )
        given = f"{CMDLINE} {case.cmdline}".rstrip()
        return text.replace(f"] Command line: {self._handover.cmdline}\n", f"] Command line: {given}\n", 1)

    def _prepare(self, warm_with: Sequence[Case]) -> None:
        """Learn where everything is, and what unwind_init() comes to; then run `warm_with`.

        unwind_init() fills a table that depends on the image alone, which takes half of a run. It is put there once, and the
        function only says that it is there.
        """
        anatomy, channel = self._anatomy, self._channel
        channel.send(_Op.READ)
        self._handover = Handover.read(self.machine, anatomy, channel.read)
        channel.let_go()
        table, count = anatomy.physical("orc_lookup"), anatomy.physical("lookup_num_blocks")
        channel.send(_Op.WARM)
        channel.expect(_Kind.END)
        filled, blocks = channel.read(table, anatomy.orc_lookup), channel.read(count, 4)
        channel.let_go()
        channel.expect(_Kind.GONE)
        at = self._patcher_body("unwind_init")
        done = b"\xc6\x05" + struct.pack("<i", anatomy.symbols["orc_init"] - (at + 7)) + b"\x01\xc3"
        where = anatomy.physical("unwind_init") + at - anatomy.symbols["unwind_init"]
        self._set([(table, filled), (count, blocks), (where, done)])
        for case in warm_with:
            writes = self._writes(case)
            channel.send(_Op.WARM, _packed(writes), count=len(writes))
            channel.expect(_Kind.END)
            channel.let_go()
            channel.expect(_Kind.GONE)
        channel.send(_Op.SEAL)
        channel.expect(_Kind.GONE)

    def _patcher_body(self, name: str) -> int:
        self._channel.send(_Op.READ)
        head = self._channel.read(self._anatomy.physical(name), 4)
        self._channel.let_go()
        return self._anatomy.symbols[name] + 4 * (head == b"\xf3\x0f\x1e\xfa")

    def _set(self, writes: Sequence[Write]) -> None:
        self._channel.send(_Op.SET, _packed(writes), count=len(writes))
        self._channel.expect(_Kind.GONE)


def _fill(fd: int, data: bytes) -> None:
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)


def undeliverable(case: Case) -> str | None:
    """Why a server cannot run `case`; None where it can."""
    if (reason := unwritable(case)) is not None:
        return reason
    if len(CMDLINE) + 1 + len(case.cmdline) > CMDLINE_SHOWN:
        return "the command line is too long to be replaced in the log"
    assert isinstance(case.machine, Q35)  # noqa: S101 (checked by `unwritable`)
    try:
        host_machine(case.machine)
    except ToolError as error:
        return str(error)
    return None
