"""A guest stopped with its kernel about to read the memory map: how a case gets in, and how its log gets out.

What `forkserver` and `snapshot` have in common. The kernel's image is changed so that less of its time goes
into what no log shows: it prints to no serial port, it is told what its clock runs at, its functions neither
call the tracer nor return by a thunk, and unwind_init(), which indexes tables that depend on the image alone
and takes half of a boot, finds its work done.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from acpitk.errors import DecodeError, ToolError
from acpitk.machine import Q35, Case
from acpitk.qemu.anatomy import Anatomy, Patcher, anatomy_of
from acpitk.qemu.argv import CMDLINE
from acpitk.qemu.firmware import CMDLINE_SHOWN, Handover, Write, host_machine, unwritable
from acpitk.qemu.guest_memory import ReadRam
from acpitk.qemu.image import KernelImage
from acpitk.qemu.printk import BUFFER, DESCRIPTORS, INFOS, RING, console_text, read_ring

TSC_KHZ: Final = 1_000_000
"""What the kernel is told its clock runs at: measuring takes longer than all the rest."""
CLOCK: Final = "native_calibrate_cpu_early"
"""The function that would measure it."""
HALTED: Final = "halted"
"""The end of a guest whose CPU will not run again."""


class GuestLostError(Exception):
    """The way does not answer, or answers nonsense: it has to be started anew."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a case that reached an end.

    Args:
        console: the log; None where it outgrew printk's buffer.
        end: the function it was stopped in, or `HALTED`.
        read: reads RAM; only until the guest is let go.
    """

    console: str | None
    end: str
    read: ReadRam


def anatomy_for(image: KernelImage) -> Anatomy:
    """The anatomy of a kernel that can be stopped.

    Raises:
        ToolError: it cannot be read.
    """
    try:
        return anatomy_of(image)
    except DecodeError as error:
        raise ToolError(f"kernel {image.name}: {error}") from None


def quiet(patcher: Patcher) -> None:
    """No serial output, no measuring of the clock, no detours for tracing and speculation.

    Raises:
        ToolError: the kernel lacks a function.
    """
    patcher.straighten()
    patcher.returns("early_serial_write")
    patcher.returns(CLOCK, TSC_KHZ)


def unwind_done(anatomy: Anatomy, body: int, read: ReadRam) -> list[Write]:
    """What to write so that unwind_init() has nothing to do, from the RAM of a guest in which it has run.

    Args:
        body: virtual address of unwind_init(), a leading ENDBR64 skipped.
    """
    table, count = anatomy.physical("orc_lookup"), anatomy.physical("lookup_num_blocks")
    where = anatomy.physical("unwind_init") + body - anatomy.symbols["unwind_init"]
    said = struct.pack("<i", anatomy.symbols["orc_init"] - (body + 7))
    done = b"\xc6\x05" + said + b"\x01\xc3"  # movb $1, orc_init(%rip); ret
    return [(table, read(table, anatomy.orc_lookup)), (count, read(count, 4)), (where, done)]


def undeliverable(case: Case) -> str | None:
    """Why a stopped guest cannot be given `case`; None where it can."""
    if (reason := unwritable(case)) is not None:
        return reason
    if len(full_cmdline(case)) > CMDLINE_SHOWN:
        return "the command line is too long to be replaced in the log"
    assert isinstance(case.machine, Q35)  # noqa: S101 (checked by `unwritable`)
    try:
        host_machine(case.machine)
    except ToolError as error:
        return str(error)
    return None


def full_cmdline(case: Case) -> str:
    """The kernel command line that a fresh boot has."""
    return f"{CMDLINE} {case.cmdline}".rstrip()


def log_of(case: Case, handover: Handover, read: ReadRam) -> str | None:
    """The log in RAM as a console prints it; None where it outgrew its buffer.

    The command line was printed before it was replaced, so its line is too.

    Raises:
        DecodeError: there is no log.
    """
    anatomy, layout = handover.anatomy, handover.anatomy.log
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
    printed = f"] Command line: {handover.cmdline}\n"
    return text and text.replace(printed, f"] Command line: {full_cmdline(case)}\n", 1)
