"""A case as the worker takes it: the machine's memory map, the bytes in its memory, the command line.

Layout: `struct oracle_request` of `shim/oracle.h`.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from acpitk.kernel.policy import KernelBuild
from acpitk.machine import ACPI_TABLES, INITRD, MADT, Q35, Case, E820Entry, E820Type, Machine, madt_at
from acpitk.qemu.argv import CMDLINE, CMDLINE_MAX

WANT_LOG, RESERVED_GIVEN = 1, 2
E820_MAX = 128
"""E820_MAX_ENTRIES_ZEROPAGE: entries that fit `boot_params`."""
REQUEST_MAX = 32 << 20

TICKS = 500
"""The time limit of a run: 2 s of CPU time."""

_HEADER = struct.Struct("<8I4Q")
MACHINE = slice(40, 384)
"""Of a request, the initrd, command line and memory map, or their beginning: what a checkpoint depends on."""
_E820 = struct.Struct("<QQI")
_E820_NUMBER = {
    E820Type.USABLE: 1,
    E820Type.RESERVED: 2,
    E820Type.ACPI_DATA: 3,
    E820Type.ACPI_NVS: 4,
    E820Type.UNUSABLE: 5,
    E820Type.PERSISTENT: 7,
    E820Type.SOFT_RESERVED: 0xEFFFFFFF,
}
"""arch/x86/include/asm/e820/types.h."""
_RSDP = 0xF59E0
"""Where SeaBIOS puts the RSDP of the guests that were recorded."""
_FAR_TABLES = 1 << 45
"""Where the tables of a machine lie that does not say where: beyond its RAM."""
_EBDA = (0x40E, struct.pack("<HxxxH", 0x9FC0, 639))
"""The BIOS data area: segment of the EBDA and KiB of low memory (arch/x86/kernel/ebda.c)."""


def encode(case: Case, build: KernelBuild, *, log: bool = False, ticks: int = TICKS) -> bytes:
    """The request of `case`; `ticks` is its time limit in 4 ms of CPU time."""
    cmdline = (f"{CMDLINE} {case.cmdline}".rstrip() if log else case.cmdline).encode("ascii", "replace")
    words = cmdline[:CMDLINE_MAX] + b"\0"
    machine = case.machine
    if isinstance(machine, Q35):
        fixed = _q35(machine, tuple(map(len, case.tables)), madt_at(case.tables))
    else:
        fixed = _explicit(machine, tuple(map(len, case.tables)))
    body = [_pad(words), fixed.rows]
    body += [fixed.blobs]
    address = fixed.tables_at
    tables = b"".join(case.tables)
    if tables:
        body += [struct.pack("<QQ", address, len(tables)), _pad(tables)]
    size = _HEADER.size + sum(map(len, body))
    header = _HEADER.pack(
        size,
        (WANT_LOG if log else 0) | fixed.flags,
        len(words),
        fixed.e820,
        fixed.placed,
        fixed.reserved,
        fixed.blob_count + bool(tables),
        ticks,
        _RSDP,
        *fixed.initrd,
        build.brk_used - build.page_table_buffer,
    )
    return header + b"".join(body)


class _Fixed:
    """What does not depend on the tables' bytes."""

    __slots__ = ("blob_count", "blobs", "e820", "flags", "initrd", "placed", "reserved", "rows", "tables_at")

    def __init__(
        self,
        machine: Machine,
        blobs: list[tuple[int, bytes]],
        tables_at: int,
        *,
        placed: list[tuple[int, int]],
        initrd: tuple[int, int],
    ) -> None:
        reserved = [(row.start, row.end) for row in machine.reserved or ()]
        self.flags = RESERVED_GIVEN if machine.reserved is not None else 0
        self.e820, self.placed, self.reserved = len(machine.e820), len(placed), len(reserved)
        self.rows = _pad(b"".join(map(_e820_row, machine.e820))) + b"".join(
            struct.pack("<QQ", *row) for row in (*placed, *reserved)
        )
        self.blobs = b"".join(struct.pack("<QQ", at, len(data)) + _pad(data) for at, data in blobs)
        self.blob_count, self.tables_at, self.initrd = len(blobs), tables_at, initrd


def _e820_row(entry: E820Entry) -> bytes:
    return _E820.pack(entry.start, entry.end - entry.start, _E820_NUMBER[entry.type])


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) & 7)


@lru_cache(maxsize=4096)
def _q35(q35: Q35, lengths: tuple[int, ...], madt: int | None) -> _Fixed:
    machine = q35.resolve([(MADT if i == madt else b"").ljust(n, b"\0") for i, n in enumerate(lengths)])
    acpi = next(row for row in machine.placed if row.owner == ACPI_TABLES)
    own = _qemu_tables(acpi.start)
    tables_at = acpi.start + _QEMU_SIZE
    end = tables_at + sum(lengths)
    rsdp = _checked(struct.pack("<8sB6sBI", b"RSD PTR ", 0, b"BOCHS ", 0, end), 8)
    initrd = next(((r.start, q35.initrd) for r in machine.placed if r.owner == INITRD), (0, 0))
    blobs = [_EBDA, *own, (end, machine.after_tables), (_RSDP, rsdp)]
    return _Fixed(machine, blobs, tables_at, placed=[], initrd=initrd)


@lru_cache(maxsize=256)
def _explicit(machine: Machine, lengths: tuple[int, ...]) -> _Fixed:
    acpi = next((row.start for row in machine.placed if row.owner == ACPI_TABLES), _FAR_TABLES)
    placed = [(row.start, row.end) for row in machine.placed if row.owner != ACPI_TABLES]
    pointers = []
    at = acpi
    for length in lengths:
        pointers.append(at)
        at += length
    xsdt = _table(b"XSDT", 1, struct.pack(f"<{len(pointers)}Q", *pointers))
    far = _FAR_TABLES + (1 << 30)
    rsdp = _checked(struct.pack("<8sB6sBIIQ4x", b"RSD PTR ", 0, b"ACPITK", 2, 0, 36, far), 8)
    blobs = [(at, machine.after_tables), (far, xsdt), (_RSDP, rsdp)]
    return _Fixed(machine, blobs, acpi, placed=placed, initrd=(0, 0))


_QEMU_SIZE = 0x2270


def _qemu_tables(base: int) -> list[tuple[int, bytes]]:
    """QEMU 7.2's own tables of a one-CPU q35, as far as Linux reads them before its zones are set up."""
    madt = struct.pack("<II", 0xFEE00000, 1)
    madt += struct.pack("<BBBBI", 0, 8, 0, 0, 1) + struct.pack("<BBBBII", 1, 12, 0, 0, 0xFEC00000, 0)
    for irq, flags in ((0, 0), (5, 13), (9, 13), (10, 13), (11, 13)):
        madt += struct.pack("<BBBBIH", 2, 10, 0, irq, 2 if irq == 0 else irq, flags)
    madt += struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)
    fadt = bytearray(0xF4 - 36)
    struct.pack_into("<II", fadt, 0, base, base + 0x40)
    struct.pack_into("<H", fadt, 46 - 36, 9)
    struct.pack_into("<6I", fadt, 56 - 36, 0x600, 0, 0x604, 0, 0, 0x608)
    struct.pack_into("<4B", fadt, 88 - 36, 4, 2, 0, 4)
    struct.pack_into("<Q", fadt, 140 - 36, base + 0x40)
    facs = struct.pack("<4sI", b"FACS", 64) + bytes(56)
    dsdt = struct.pack("<4sIBB6s8sI4sI", b"DSDT", 0x2028, 1, 0, b"BOCHS ", b"BXPC    ", 1, b"BXPC", 1)
    return [
        (base, facs),
        (base + 0x40, dsdt),
        (base + 0x2068, _table(b"FACP", 3, bytes(fadt))),
        (base + 0x215C, _table(b"APIC", 1, madt)),
        (base + 0x21D4, _table(b"HPET", 1, bytes(20))),
        (base + 0x220C, _table(b"MCFG", 1, bytes(24))),
        (base + 0x2248, _table(b"WAET", 1, bytes(4))),
    ]


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    header = struct.pack(
        "<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, b"BOCHS ", b"BXPC    ", 1, b"BXPC", 1
    )
    return _checked(header + body, 9)


def _checked(data: bytes, at: int) -> bytes:
    out = bytearray(data)
    out[at] = -sum(out) & 0xFF
    return bytes(out)
