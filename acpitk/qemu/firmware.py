"""What firmware leaves in the memory of a q35 guest, moved and extended for a case. Pure.

QEMU hands its ACPI tables to SeaBIOS as one blob, tables added with `-acpitable` behind its own and the RSDT
behind those (hw/i386/acpi-build.c, acpi_build). The same bytes are made here from the blob of a guest without
added tables, with any bytes as tables: their length and checksum are what they say, not what they are.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from acpitk.errors import ToolError
from acpitk.machine import Q35, Case, E820Type, Machine, madt_at, madt_first
from acpitk.qemu.anatomy import Anatomy
from acpitk.qemu.guest_memory import ReadRam
from acpitk.qemu.initramfs import padded
from acpitk.ranges import GIB, KIB, MIB

Write = tuple[int, bytes]
"""(offset in RAM, bytes)."""

_RSDP_AREA = (0xE0000, 0x100000)
_RSDP, _RSDP_SIZE = b"RSD PTR ", 20
_HEADER = 36
_FADT_POINTERS = ((36, "<I"), (40, "<I"), (132, "<Q"), (140, "<Q"))
"""FIRMWARE_CTRL, DSDT, X_FIRMWARE_CTRL, X_DSDT (ACPI 6.6, 5.2.9)."""
_E820_ENTRY = struct.Struct("<QQI")
_E820_MAX = 128
_BLOB = 128 * KIB
_LOW_MAX: Final = 0xB0000000 - MIB
_SMBIOS_DEVICE: Final = 16 * GIB
MEMORY_MAX: Final = 64 * GIB
"""Larger guests have SMBIOS tables in RAM, whose size follows their memory."""
INITRD = 4 * KIB
"""Bytes of initrd of a server, so that the kernel reserves one that can be moved or taken away."""
CMDLINE_SHOWN = 900
"""Characters of a command line that surely fit one line of the log (LOG_LINE_MAX, with the prefix)."""
_COMMAND_LINE_SIZE = 2048


def host_machine(machine: Q35) -> Q35:
    """The guest whose memory can be made to look like that of `machine`: as much RAM or more, split alike.

    Raises:
        ToolError: there is none, the guest has too much memory.
    """
    if machine.memory > MEMORY_MAX:
        raise ToolError("guests of more than 64 GiB have another layout for every size")
    low = machine.memory == machine.low_end
    return Q35(_LOW_MAX if low else -(-machine.memory // _SMBIOS_DEVICE) * _SMBIOS_DEVICE, INITRD)


def unwritable(case: Case) -> str | None:
    """Why the tables of `case` cannot be laid out in a guest's memory; None where they can."""
    if isinstance(case.machine, Machine):
        return "the machine is an explicit memory map; QEMU gives a guest only its own layouts"
    if any(table[:4] == b"SLIC" for table in case.tables):
        return "a table is called SLIC; QEMU gives its names to the RSDT"
    room = _BLOB - 16 * KIB
    if (size := sum(map(len, case.tables))) > room:
        return f"the tables have {size} bytes; firmware's place for them holds {room}"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """What firmware left in a guest without added tables.

    Args:
        machine: that guest.
        rsdp: where the RSDP lies, and its 20 bytes.
        blob: where the ACPI blob lies, and the bytes from there to the end of low RAM.
        rsdt: offset of the RSDT in the blob.
    """

    machine: Q35
    rsdp: tuple[int, bytes]
    blob: tuple[int, bytes]
    rsdt: int

    @classmethod
    def read(cls, machine: Q35, read: ReadRam) -> Firmware:
        """Find the tables in RAM.

        Raises:
            ToolError: they are not where QEMU and SeaBIOS put them.
        """
        start, end = _RSDP_AREA
        area = read(start, end - start)
        at = next((i for i in range(0, len(area), 16) if area.startswith(_RSDP, i)), None)
        if at is None or area[at + 15] >= 2:
            raise ToolError("firmware left no RSDP of revision 0")
        rsdp = area[at : at + _RSDP_SIZE]
        (rsdt,) = struct.unpack_from("<I", rsdp, 16)
        blob = min(row.start for row in machine.resolve(()).placed if row.owner == "ACPI tables")
        if not blob <= rsdt < blob + _BLOB - _HEADER:
            raise ToolError(f"the RSDT is at {rsdt:#x}, not in the {_BLOB // KIB} KiB from {blob:#x}")
        content = read(blob, machine.low_end - blob)
        if content[rsdt - blob :][:4] != b"RSDT":
            raise ToolError(f"there is no RSDT at {rsdt:#x}")
        return cls(machine=machine, rsdp=(start + at, rsdp), blob=(blob, content), rsdt=rsdt - blob)

    def writes(self, case: Case) -> list[Write]:
        """What to write to put the tables of `case`, and no others, where firmware would have put them."""
        machine = case.machine
        assert isinstance(machine, Q35)  # noqa: S101 (checked by `unwritable`)
        target = min(row.start for row in machine.resolve(()).placed if row.owner == "ACPI tables")
        before, content = self.blob
        shift = target - before
        size = machine.low_end - target
        out = bytearray(content[:size].ljust(size, b"\0"))
        pointers = [p + shift for p in _rsdt_pointers(content, self.rsdt)]
        for pointer in pointers:
            _relocate_fadt(out, pointer - target, shift)
        end = self.rsdt
        for table in case.tables:
            out[end : end + len(table)] = table
            pointers.append(target + end)
            end += len(table)
        madt_first(pointers, len(case.tables), madt_at(case.tables))
        rsdt = _table(content[self.rsdt : self.rsdt + _HEADER], pointers)
        old_end = self.rsdt + int.from_bytes(content[self.rsdt + 4 : self.rsdt + 8], "little")
        out[end : end + len(rsdt)] = rsdt
        if (after := end + len(rsdt)) < old_end:
            out[after:old_end] = bytes(old_end - after)
        at, rsdp = self.rsdp
        patched = bytearray(rsdp)
        struct.pack_into("<I", patched, 16, target + end)
        _seal(patched, 8)
        return [(at, bytes(patched)), (target, bytes(out))]


def _rsdt_pointers(blob: bytes, rsdt: int) -> tuple[int, ...]:
    size = int.from_bytes(blob[rsdt + 4 : rsdt + 8], "little") - _HEADER
    return struct.unpack_from(f"<{size // 4}I", blob, rsdt + _HEADER)


def _relocate_fadt(blob: bytearray, at: int, shift: int) -> None:
    if not shift or blob[at : at + 4] != b"FACP":
        return
    size = int.from_bytes(blob[at + 4 : at + 8], "little")
    for field, form in _FADT_POINTERS:
        if field + struct.calcsize(form) <= size:
            (pointer,) = struct.unpack_from(form, blob, at + field)
            if pointer:
                struct.pack_into(form, blob, at + field, pointer + shift)
    table = bytearray(blob[at : at + size])
    _seal(table, 9)
    blob[at : at + size] = table


def _table(header: bytes, pointers: Sequence[int]) -> bytes:
    out = bytearray(header) + struct.pack(f"<{len(pointers)}I", *pointers)
    struct.pack_into("<I", out, 4, len(out))
    _seal(out, 9)
    return bytes(out)


def _seal(table: bytearray, at: int) -> None:
    table[at] = 0
    table[at] = -sum(table) & 0xFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What the boot loader told a kernel stopped at `anatomy.START`, and what the kernel made of it so far.

    Args:
        firmware: the tables in RAM.
        anatomy: where the kernel keeps all this.
        e820: boot_params.e820_table, as (start, size, type).
        cmdline: boot_command_line.
        reserved: physical address of memblock.reserved.regions, and its (cnt, total_size).
        initrd: index there of the region that is the initrd; None where it is not reserved yet.
    """

    firmware: Firmware
    anatomy: Anatomy
    e820: tuple[tuple[int, int, int], ...]
    cmdline: str
    reserved: tuple[int, int, int]
    initrd: int | None

    @classmethod
    def read(cls, machine: Q35, anatomy: Anatomy, read: ReadRam) -> Handover:
        """Read it from the RAM of a stopped guest.

        Raises:
            ToolError: something is not as expected.
        """
        params = anatomy.physical("boot_params")
        count = read(params + anatomy.params["e820_entries"], 1)[0]
        rows = read(params + anatomy.params["e820_table"], count * _E820_ENTRY.size)
        cmdline = read(anatomy.physical("boot_command_line"), _COMMAND_LINE_SIZE).split(b"\0")[0]
        memblock = anatomy.physical("memblock")
        cnt, total, regions = (
            int.from_bytes(read(memblock + anatomy.reserved[name], 8), "little")
            for name in ("cnt", "total_size", "regions")
        )
        where = anatomy.physical("memblock") + regions - anatomy.symbols["memblock"]
        table = read(where, cnt * anatomy.region_size)
        starts = [struct.unpack_from("<QQ", table, i * anatomy.region_size) for i in range(cnt)]
        at = _initrd_range(machine)
        index = starts.index(at) if at in starts else None
        if index is not None and index != cnt - 1:
            raise ToolError("the initrd is not the last region the kernel has reserved")
        return cls(
            firmware=Firmware.read(machine, read),
            anatomy=anatomy,
            e820=tuple(_E820_ENTRY.iter_unpack(rows)),
            cmdline=cmdline.decode("ascii", "replace"),
            reserved=(where, cnt, total),
            initrd=index,
        )

    def writes(self, case: Case, cmdline: str) -> list[Write]:
        """What to write so that the kernel goes on as if it had been started with `case`.

        Args:
            case: of a guest that `host_machine` gives this one for.
            cmdline: the whole kernel command line.
        """
        assert isinstance(case.machine, Q35)  # noqa: S101 (checked by `unwritable`)
        anatomy, machine, own = self.anatomy, case.machine, self.firmware.machine
        moved = dict(zip(_bounds(own), _bounds(machine), strict=True))
        rows = b"".join(
            _E820_ENTRY.pack(moved.get(at, at), moved.get(at + size, at + size) - moved.get(at, at), kind)
            for at, size, kind in self.e820
        )
        params = anatomy.physical("boot_params")
        line = cmdline.encode().ljust(_COMMAND_LINE_SIZE, b"\0")
        start, size = _initrd_range(machine) if machine.initrd else (0, 0)
        out = [
            *self.firmware.writes(case),
            (params + anatomy.params["e820_table"], rows),
            (params + anatomy.params["ramdisk_image"], struct.pack("<I", start)),
            (params + anatomy.params["ramdisk_size"], struct.pack("<I", machine.initrd)),
            *((anatomy.physical(name), line) for name in ("boot_command_line", "command_line")),
        ]
        if machine.initrd:
            out.append((start, padded(machine.initrd).rstrip(b"\0")))
        if self.initrd is not None:
            where, cnt, total = self.reserved
            own_size = _initrd_range(own)[1]
            memblock = anatomy.physical("memblock")
            out += [
                (memblock + anatomy.reserved["cnt"], struct.pack("<Q", cnt - (not machine.initrd))),
                (memblock + anatomy.reserved["total_size"], struct.pack("<Q", total - own_size + size)),
                (where + self.initrd * anatomy.region_size, struct.pack("<QQ", start, size)),
            ]
        return out


def _bounds(machine: Q35) -> tuple[int, ...]:
    """Where usable low RAM, low RAM and all RAM end, bytes."""
    resolved = machine.resolve(())
    usable = max(e.end for e in resolved.e820 if e.type is E820Type.USABLE and e.end <= machine.low_end)
    return usable, machine.low_end, machine.ram[-1].end


def _initrd_range(machine: Q35) -> tuple[int, int]:
    """(start, size) of the initrd as the kernel reserves it, in whole pages."""
    row = next(row for row in machine.resolve(()).placed if row.owner == "initrd")
    return row.start, row.end - row.start
