"""What a worker is handed: the case's machine, its tables where firmware puts them, the command line."""

from __future__ import annotations

import struct

import pytest

from acpitk.kernel.policy import BUILDS
from acpitk.machine import ACPI_TABLES, Q35, Case, E820Entry, E820Type, Machine, Reserved
from acpitk.oracle.request import RESERVED_GIVEN, WANT_LOG, encode
from acpitk.ranges import GIB, MIB

HEADER = struct.Struct("<8I4Q")
BUILD = BUILDS["v6.1"]
TABLE = b"SRAT" + struct.pack("<I", 44) + bytes(36)


def blobs(request: bytes) -> dict[int, bytes]:
    """Address -> bytes of everything that is put into memory."""
    _, _, cmdline, e820, placed, reserved, count, *_ = HEADER.unpack_from(request)
    at = HEADER.size + (cmdline + 7 & ~7) + (e820 * 20 + 7 & ~7) + (placed + reserved) * 16
    out = {}
    for _ in range(count):
        address, length = struct.unpack_from("<QQ", request, at)
        out[address] = request[at + 16 : at + 16 + length]
        at += 16 + (length + 7 & ~7)
    assert at == len(request) == HEADER.unpack_from(request)[0]
    return out


def test_tables_lie_behind_the_guests_own_and_the_root_table_points_at_them() -> None:
    case = Case(machine=Q35(GIB), tables=(TABLE, TABLE))
    area = next(row for row in case.resolved().placed if row.owner == ACPI_TABLES)
    placed = blobs(encode(case, BUILD))
    address = area.end - 2 * len(TABLE)
    assert placed[address] == TABLE * 2
    root = placed[area.end]
    pointers = struct.unpack(f"<{len(root) // 4 - 9}I", root[36:])
    assert pointers[-2:] == (address, address + len(TABLE))
    rsdp = HEADER.unpack_from(encode(case, BUILD))[8]
    assert int.from_bytes(placed[rsdp][16:20], "little") == area.end
    assert sum(placed[rsdp][:20]) & 0xFF == 0


def test_every_pointer_of_the_root_table_leads_to_a_table() -> None:
    case = Case(machine=Q35(8 * GIB), tables=(TABLE,))
    placed = blobs(encode(case, BUILD))
    area = next(row for row in case.resolved().placed if row.owner == ACPI_TABLES)
    root = placed[area.end]
    for (pointer,) in struct.iter_unpack("<I", root[36:]):
        assert placed[pointer][:4].isalpha()
        assert int.from_bytes(placed[pointer][4:8], "little") <= 0x2028


def test_a_log_is_asked_for_with_the_command_line_of_a_boot() -> None:
    case = Case(machine=Q35(GIB), cmdline="movable_node")
    quiet, loud = encode(case, BUILD), encode(case, BUILD, log=True)
    assert b"memblock=debug" not in quiet
    assert b"memblock=debug" in loud
    assert not HEADER.unpack_from(quiet)[1] & WANT_LOG
    assert HEADER.unpack_from(loud)[1] & WANT_LOG
    assert quiet[HEADER.size :].startswith(b"movable_node\0")


@pytest.mark.parametrize("given", [True, False])
def test_an_explicit_machine_is_handed_over_as_it_is(given: bool) -> None:
    reserved = (Reserved(0x1000, 0x2000, "x"),) if given else None
    machine = Machine(
        e820=(E820Entry(0, GIB, E820Type.USABLE),),
        placed=(Reserved(MIB, 2 * MIB, "initrd"), Reserved(3 * MIB, 4 * MIB, ACPI_TABLES)),
        reserved=reserved,
    )
    request = encode(Case(machine=machine, tables=(TABLE,)), BUILD)
    _, flags, _, e820, placed, kept, *_ = HEADER.unpack_from(request)
    assert (e820, placed, kept) == (1, 1, int(given))
    assert bool(flags & RESERVED_GIVEN) is given
    assert blobs(request)[3 * MIB] == TABLE
