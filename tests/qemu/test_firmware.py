"""What is written into guest memory, against the memory map the model has for the same guest."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.errors import ToolError
from acpitk.fuzz.strategies import machines
from acpitk.machine import ACPI_TABLES, Q35, Case, Machine
from acpitk.qemu.firmware import MEMORY_MAX, Firmware, host_machine, unwritable
from acpitk.ranges import GIB, KIB, MIB

_OWN_TABLES = {0x40: b"FACP", 0x140: b"APIC"}
_RSDT = 0x200
_RSDP = 0xF5B20


def _blob(machine: Q35) -> int:
    return next(row.start for row in machine.resolve(()).placed if row.owner == ACPI_TABLES)


def _sealed(table: bytes, at: int) -> bytes:
    out = bytearray(table)
    out[at] = -sum(out) & 0xFF
    return bytes(out)


def _guest(machine: Q35) -> dict[int, bytes]:
    """RAM of a guest whose firmware has a FADT and a MADT."""
    start = _blob(machine)
    content = bytearray(machine.low_end - start)
    fadt = bytearray(b"FACP" + struct.pack("<I", 244) + bytes(236))
    for field, form, value in ((36, "<I", start), (40, "<I", start + 8), (140, "<Q", start + 8)):
        struct.pack_into(form, fadt, field, value)
    content[0x40 : 0x40 + 244] = _sealed(fadt, 9)
    content[0x140 : 0x140 + 44] = b"APIC" + struct.pack("<I", 44) + bytes(36)
    rsdt = b"RSDT" + struct.pack("<I", 44) + bytes(28) + struct.pack("<2I", start + 0x40, start + 0x140)
    content[_RSDT : _RSDT + 44] = _sealed(rsdt, 9)
    rsdp = _sealed(b"RSD PTR " + bytes(8) + struct.pack("<I", start + _RSDT), 8)
    return {_RSDP: rsdp, start: bytes(content)}


def _firmware(machine: Q35) -> Firmware:
    ram = _guest(machine)

    def read(offset: int, size: int) -> bytes:
        out = bytearray(size)
        for at, data in ram.items():
            for i, byte in enumerate(data):
                if offset <= at + i < offset + size:
                    out[at + i - offset] = byte
        return bytes(out)

    return Firmware.read(machine, read)


_HOST = Q35(GIB, 4 * KIB)
_FIRMWARE = _firmware(_HOST)


@given(
    machine=machines(max_memory=2815 * MIB),
    tables=st.lists(st.binary(max_size=300), max_size=4).map(tuple),
)
def test_tables_lie_behind_firmwares_own_as_they_are(machine: Q35, tables: tuple[bytes, ...]) -> None:
    case = Case(machine=machine, tables=tables)
    (at, rsdp), (start, content) = _FIRMWARE.writes(case)
    assert (at, start) == (_RSDP, _blob(machine))
    assert sum(rsdp) % 256 == 0
    (rsdt,) = struct.unpack_from("<I", rsdp, 16)
    assert content[rsdt - start :][:4] == b"RSDT"
    size = int.from_bytes(content[rsdt - start + 4 :][:4], "little")
    root = content[rsdt - start :][:size]
    assert sum(root) % 256 == 0
    own, added = (
        struct.unpack(f"<{size // 4 - 9}I", root[36:])[:2],
        struct.unpack(f"<{size // 4 - 9}I", root[36:])[2:],
    )
    assert [content[p - start :][:4] for p in own] == list(_OWN_TABLES.values())
    assert [content[p - start :][: len(t)] for p, t in zip(added, tables, strict=True)] == list(tables)
    fadt = content[own[0] - start :][:244]
    assert sum(fadt) % 256 == 0
    assert struct.unpack_from("<II", fadt, 36) == (start, start + 8)
    assert not any(content[rsdt - start + size :])
    assert len(content) == machine.low_end - start


def test_a_madt_of_the_case_is_listed_before_firmwares_own() -> None:
    tables = (b"SRAT" + bytes(44), b"APIC" + bytes(40), b"APIC" + bytes(8))
    (_, rsdp), (start, content) = _FIRMWARE.writes(Case(machine=_HOST, tables=tables))
    (rsdt,) = struct.unpack_from("<I", rsdp, 16)
    listed = struct.unpack_from("<5I", content, rsdt - start + 36)
    assert [content[p - start :][:4] for p in listed] == [b"APIC", b"FACP", b"APIC", b"SRAT", b"APIC"]
    assert content[listed[0] - start :][:44] == tables[1]


@given(machines(max_memory=MEMORY_MAX))
def test_a_guest_stands_in_for_smaller_ones_with_memory_split_alike(machine: Q35) -> None:
    host = host_machine(machine)
    assert host.memory >= machine.memory
    assert (host.memory == host.low_end) == (machine.memory == machine.low_end)
    assert host_machine(host) == host
    assert -(-host.memory // (16 * GIB)) == -(-machine.memory // (16 * GIB)) or machine.memory < 4 * GIB


def test_what_cannot_be_written() -> None:
    with pytest.raises(ToolError, match="64 GiB"):
        host_machine(Q35(MEMORY_MAX + MIB))
    case = Case(machine=Q35(GIB))
    assert unwritable(case) is None
    assert "SLIC" in str(unwritable(replace(case, tables=(b"SLIC" + bytes(40),))))
    assert "200000 bytes" in str(unwritable(replace(case, tables=(bytes(100_000),) * 2)))
    assert "memory map" in str(unwritable(replace(case, machine=Machine(e820=()))))
