"""The machine and the case: what firmware and boot loader hand to the kernel.

`Q35` names a QEMU guest that can be booted; `Machine` is an explicit memory map, of a real server or of a
`Q35` resolved by `Q35.resolve`. A `Case` is machine + table bytes + kernel command line.
All addresses are bytes, ranges half-open.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

from acpitk.errors import UsageError
from acpitk.ranges import ADDRESS_LIMIT, GIB, KIB, MIB, PhysRange, align_down, align_up, format_size

T = TypeVar("T")
ACPI_TABLES = "ACPI tables"
MADT = b"APIC"
"""Signature of the table of processors and interrupt controllers (ACPI 6.6, 5.2.12)."""
INITRD = "initrd"
KERNEL_IMAGE = "kernel image"


class E820Type(StrEnum):
    """e820 types in the kernel's words (arch/x86/kernel/e820.c, e820_print_type)."""

    USABLE = "usable"
    RESERVED = "reserved"
    ACPI_DATA = "ACPI data"
    ACPI_NVS = "ACPI NVS"
    UNUSABLE = "unusable"
    PERSISTENT = "persistent"
    SOFT_RESERVED = "soft reserved"


@dataclass(frozen=True, slots=True)
class E820Entry:
    """One firmware memory map entry."""

    start: int
    end: int
    type: E820Type


@dataclass(frozen=True, slots=True)
class Reserved:
    """Memory in use before the kernel's own allocator runs, and who uses it."""

    start: int
    end: int
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A memory map and what sits in it.

    Args:
        e820: the firmware memory map, sorted.
        placed: what firmware and boot loader put in memory (initrd, ACPI tables, EFI boot services ...).
        reserved: `memblock.reserved` at the moment the SRAT is parsed. None: the model derives it from
            `placed` by replaying setup_arch().
        after_tables: bytes that follow the last ACPI table in memory; a kernel that trusts a wrong length
            reads them.
    """

    e820: tuple[E820Entry, ...]
    placed: tuple[Reserved, ...] = ()
    reserved: tuple[Reserved, ...] | None = None
    after_tables: bytes = b""

    def __hash__(self) -> int:
        """Of the ends of the map, for a cache is asked thousands of times a second."""
        return hash((len(self.e820), self.e820[-1:], self.placed[-1:]))

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form."""
        out: dict[str, Any] = {
            "e820": [{"start": e.start, "end": e.end, "type": e.type.value} for e in self.e820]
        }
        for name, rows in (("placed", self.placed or None), ("reserved", self.reserved)):
            if rows is not None:
                out[name] = [{"start": r.start, "end": r.end, "owner": r.owner} for r in rows]
        return out


_Q35_LOW_LIMIT = 0xB0000000
_Q35_LOW_SPLIT = 2 * GIB
_Q35_RESERVED = (
    (0xB0000000, 0xC0000000),
    (0xFED1C000, 0xFED20000),
    (0xFFFC0000, 0x100000000),
    (0xFD00000000, 0x10000000000),
)
_Q35_ACPI_BLOB = 128 * KIB
_Q35_INITRD_TOP = 160 * KIB
"""Bytes kept free above an initrd (hw/i386/pc.c and x86.c: acpi_data_size, initrd_max)."""
_Q35_OWN_TABLES = 0x2270
"""Bytes of QEMU's own FACS, DSDT, FADT, MADT, HPET, MCFG and WAET on a one-CPU q35 (measured, QEMU 7.2)."""
_Q35_OWN_TABLE_OFFSETS = (0x2068, 0x215C, 0x21D4, 0x220C, 0x2248)
"""Of those, the tables the RSDT points at, from the start of the blob."""
_Q35_MINIMUM, _Q35_MAXIMUM = 128 * MIB, 978 * GIB
"""More than 978 GiB and qemu64's 40 address bits are too few for the 64-bit PCI window above RAM."""
MAX_RAM_END = 4 * GIB + _Q35_MAXIMUM - _Q35_LOW_SPLIT
"""Where the RAM of the largest q35 ends, bytes."""
_SMBIOS_FIXED = 356
"""Bytes of the SMBIOS tables of a guest with RAM above 4 GiB, memory devices aside (QEMU 7.2)."""
_SMBIOS_FSEG_MAX = 600
"""SeaBIOS moves larger SMBIOS tables to the top of low RAM (src/config.h, BUILD_MAX_SMBIOS_FSEG)."""
_SMBIOS_DEVICE = 16 * GIB


@dataclass(frozen=True, slots=True)
class Q35:
    """A one-CPU QEMU q35 guest, TCG, SeaBIOS, kernel loaded through PVH.

    Args:
        memory: `-m` in bytes, a multiple of 1 MiB, 128 MiB to 978 GiB.
        initrd: size of the initrd in bytes; 0 is none.
    """

    memory: int
    initrd: int = 0

    def __post_init__(self) -> None:
        if self.memory % MIB or not _Q35_MINIMUM <= self.memory <= _Q35_MAXIMUM:
            raise UsageError(
                f"guest memory {format_size(self.memory)}: use a multiple of 1M between 128M and 978G"
            )
        if not 0 <= self.initrd <= self.memory // 2:
            raise UsageError(
                f"an initrd of {self.initrd} bytes does not fit {format_size(self.memory)} of RAM"
            )

    @classmethod
    def with_ram_to(cls, end: int) -> Q35:
        """The guest whose RAM ends at `end` (bytes), or as near below it as a q35 can.

        Raises:
            UsageError: no q35 is that small or that large.
        """
        if end < 4 * GIB:
            return cls(align_down(min(end, _Q35_LOW_LIMIT - MIB), MIB))
        return cls(align_down(_Q35_LOW_SPLIT + end - 4 * GIB, MIB))

    @property
    def low_end(self) -> int:
        """End of RAM below 4 GiB (hw/i386/pc_q35.c: split at 2 GiB from 2.75 GiB on)."""
        return self.memory if self.memory < _Q35_LOW_LIMIT else _Q35_LOW_SPLIT

    @property
    def ram(self) -> tuple[PhysRange, ...]:
        """The guest's RAM as the hardware decodes it."""
        low = PhysRange(0, self.low_end)
        if self.memory == self.low_end:
            return (low,)
        return (low, PhysRange(4 * GIB, 4 * GIB + self.memory - self.low_end))

    def resolve(self, tables: Sequence[bytes]) -> Machine:
        """The memory map and ACPI layout this guest gets with `tables` added by `-acpitable`, in order.

        A MADT among them comes before QEMU's own in the RSDT, see `madt_at`.
        """
        return _resolve_q35(self, tuple(map(len, tables)), madt_at(tables))


def madt_at(tables: Sequence[bytes]) -> int | None:
    """Index of the first MADT among `tables`: it is listed before all others, so that Linux takes it."""
    return next((index for index, table in enumerate(tables) if table[:4] == MADT), None)


def madt_first(listed: list[T], tables: int, madt: int | None) -> None:
    """Bring what stands for the tables of a guest, a case's own `tables` last, into the order of the RSDT.

    Args:
        madt: the `madt_at` of the case's own.
    """
    if madt is not None:
        listed.insert(0, listed.pop(madt - tables))


@lru_cache(maxsize=4096)
def _resolve_q35(q35: Q35, lengths: tuple[int, ...], madt: int | None) -> Machine:
    e820, initrd, blob = _q35_map(q35)
    tables = Reserved(blob, blob + _Q35_OWN_TABLES + sum(lengths), ACPI_TABLES)
    return Machine(e820=e820, placed=(*initrd, tables), after_tables=_q35_rsdt(blob, lengths, madt))


@lru_cache(maxsize=1024)
def _q35_map(q35: Q35) -> tuple[tuple[E820Entry, ...], tuple[Reserved, ...], int]:
    """The memory map, the initrd where there is one, and where the ACPI tables begin."""
    blob = align_down(q35.low_end - _smbios_in_ram(q35.memory), 64) - _Q35_ACPI_BLOB
    usable_end = align_down(blob, 4 * KIB)
    entries = [
        E820Entry(0, 0x9FC00, E820Type.USABLE),
        E820Entry(0x9FC00, MIB, E820Type.RESERVED),
        E820Entry(MIB, usable_end, E820Type.USABLE),
        E820Entry(usable_end, q35.low_end, E820Type.RESERVED),
        *(E820Entry(start, end, E820Type.RESERVED) for start, end in _Q35_RESERVED),
        *(E820Entry(r.start, r.end, E820Type.USABLE) for r in q35.ram[1:]),
    ]
    initrd: tuple[Reserved, ...] = ()
    if q35.initrd:
        start = (q35.low_end - _Q35_INITRD_TOP - 1 - q35.initrd) & ~0xFFF
        initrd = (Reserved(start, align_up(start + q35.initrd, 4 * KIB), INITRD),)
    return tuple(sorted(entries, key=lambda e: e.start)), initrd, blob


def _smbios_in_ram(memory: int) -> int:
    """Bytes of SMBIOS tables above the ACPI tables: one memory device per 16 GiB, named DIMM 0 and so on."""
    devices = -(-memory // _SMBIOS_DEVICE)
    size = _SMBIOS_FIXED + 53 * devices + max(0, devices - 10)
    return size if size > _SMBIOS_FSEG_MAX else 0


def _q35_rsdt(blob: int, lengths: tuple[int, ...], madt: int | None) -> bytes:
    """QEMU's RSDT, which follows the last added table, and the zeros after it."""
    pointers = [blob + offset for offset in _Q35_OWN_TABLE_OFFSETS]
    at = blob + _Q35_OWN_TABLES
    for length in lengths:
        pointers.append(at)
        at += length
    madt_first(pointers, len(lengths), madt)
    body = struct.pack(f"<{len(pointers)}I", *(p & 0xFFFFFFFF for p in pointers))
    header = struct.pack(
        "<4sIBB6s8sI4sI", b"RSDT", 36 + len(body), 1, 0, b"BOCHS ", b"BXPC    ", 1, b"BXPC", 1
    )
    table = bytearray(header + body)
    table[9] = -sum(table) & 0xFF
    return bytes(table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One experiment: a machine, the tables firmware adds (root-table order) and the kernel command line."""

    machine: Q35 | Machine
    tables: tuple[bytes, ...] = ()
    cmdline: str = ""

    def table(self, signature: bytes) -> bytes | None:
        """The first table with this 4-byte signature, the one Linux uses (acpi_get_table, instance 0)."""
        for table in self.tables:
            if table[:4] == signature:
                return table
        return None

    def resolved(self) -> Machine:
        """The explicit memory map behind `machine`."""
        return self.machine.resolve(self.tables) if isinstance(self.machine, Q35) else self.machine

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form; table bytes are base64."""
        machine = (
            {"q35": {"memory": self.machine.memory, "initrd": self.machine.initrd}}
            if isinstance(self.machine, Q35)
            else self.machine.to_json()
        )
        tables = [base64.b64encode(table).decode() for table in self.tables]
        return {"schema": 1, "machine": machine, "tables": tables, "cmdline": self.cmdline}


def machine_from_json(document: object, *, source: str) -> Q35 | Machine:
    """Read a machine document.

    Args:
        document: parsed JSON: `{"q35": {"memory": bytes}}` or `{"e820": [...], "reserved": [...]}`.
        source: the file, named in errors.

    Raises:
        UsageError: naming the field that is wrong.
    """
    fields = _mapping(document, source)
    if "q35" in fields:
        q35 = _mapping(fields["q35"], f"{source}: q35")
        return Q35(
            _integer(q35.get("memory"), f"{source}: q35.memory"),
            _integer(q35.get("initrd", 0), f"{source}: q35.initrd"),
        )
    if "e820" not in fields:
        raise UsageError(f"{source}: neither 'e820' nor 'q35': not a machine document")
    e820 = []
    for where, row in _rows(fields["e820"], f"{source}: e820"):
        bounds = _bounds(row, where)
        try:
            e820.append(E820Entry(bounds.start, bounds.end, E820Type(str(row.get("type")))))
        except ValueError:
            words = ", ".join(t.value for t in E820Type)
            raise UsageError(f"{where}.type: {row.get('type')!r} is not one of {words}") from None
    return Machine(
        e820=tuple(sorted(e820, key=lambda e: e.start)),
        placed=_reserved(fields.get("placed", []), f"{source}: placed"),
        reserved=_reserved(fields["reserved"], f"{source}: reserved") if "reserved" in fields else None,
    )


def case_from_json(document: object, *, source: str) -> Case:
    """Read a case document written by `Case.to_json`.

    Raises:
        UsageError: naming the field that is wrong.
    """
    fields = _mapping(document, source)
    tables = []
    for index, text in enumerate(_list(fields.get("tables", []), f"{source}: tables")):
        try:
            tables.append(base64.b64decode(str(text), validate=True))
        except binascii.Error:
            raise UsageError(f"{source}: tables[{index}]: not base64") from None
    cmdline = fields.get("cmdline", "")
    if not isinstance(cmdline, str):
        raise UsageError(f"{source}: cmdline: not a string")
    machine = machine_from_json(fields.get("machine"), source=f"{source}: machine")
    return Case(machine=machine, tables=tuple(tables), cmdline=cmdline)


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected a JSON object")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise UsageError(f"{where}: expected a JSON array")
    return value


def _rows(value: object, where: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(f"{where}[{i}]", _mapping(row, f"{where}[{i}]")) for i, row in enumerate(_list(value, where))]


def _integer(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= ADDRESS_LIMIT:
        raise UsageError(f"{where}: expected a whole number of bytes, got {value!r}")
    return value


def _bounds(row: Mapping[str, Any], where: str) -> PhysRange:
    start, end = _integer(row.get("start"), f"{where}.start"), _integer(row.get("end"), f"{where}.end")
    if start >= end:
        raise UsageError(f"{where}: end {end:#x} is not above start {start:#x}")
    return PhysRange(start, end)


def _reserved(value: object, where: str) -> tuple[Reserved, ...]:
    out = []
    for at, row in _rows(value, where):
        bounds = _bounds(row, at)
        out.append(Reserved(bounds.start, bounds.end, str(row.get("owner", "unknown"))))
    return tuple(out)
