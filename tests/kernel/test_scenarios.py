"""Scenarios whose outcome was established by booting Debian's 6.1 cloud kernel."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest

from acpitk.kernel.boot import predict
from acpitk.kernel.policy import BUILDS, POLICIES
from acpitk.kernel.prediction import EntryUse, Prediction
from acpitk.machine import Q35, Case, E820Entry, E820Type, Machine, Reserved
from acpitk.outcome import NumaReason, NumaState
from acpitk.ranges import GIB, KIB, MIB

V6_1 = POLICIES["v6.1"]
PLAIN, HOT = 1, 3


def table(signature: bytes, body: bytes, revision: int = 3) -> bytes:
    header = struct.pack(
        "<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, b"TEST  ", b"TEST    ", 1, b"TEST", 1
    )
    return header + body


def cpu(pxm: int = 0, apic: int = 0, flags: int = 1, length: int = 16) -> bytes:
    high = (pxm >> 8).to_bytes(3, "little")
    return struct.pack("<BBBBIB3sI", 0, length, pxm & 0xFF, apic, flags, 0, high, 0)


def x2apic(pxm: int, apic: int) -> bytes:
    return struct.pack("<BBHIIIII", 2, 24, 0, pxm, apic, 1, 0, 0)


def mem(pxm: int, base: int, end: int, flags: int = PLAIN, length: int = 40) -> bytes:
    size = end - base & (1 << 64) - 1
    return struct.pack("<BBIHQQIIQ", 1, length, pxm, 0, base, size, 0, flags, 0)


def initiator(pxm: int, flags: int = 1) -> bytes:
    return struct.pack("<BBBBI16sII", 5, 32, 0, 0, pxm, b"", flags, 0)


def srat(*entries: bytes, revision: int = 3) -> bytes:
    return table(b"SRAT", struct.pack("<IQ", 1, 0) + b"".join(entries), revision)


def slit(*rows: bytes, count: int | None = None) -> bytes:
    return table(b"SLIT", struct.pack("<Q", len(rows) if count is None else count) + b"".join(rows), 1)


C = cpu()
N0 = mem(0, 0, 512 * MIB)
N1 = mem(1, 512 * MIB, GIB, HOT)
SLIT2 = slit(bytes([10, 20]), bytes([20, 10]))


def run(*tables: bytes, memory: int = GIB, initrd: int = 0, cmdline: str = "movable_node") -> Prediction:
    return predict(Case(machine=Q35(memory, initrd), tables=tables, cmdline=cmdline), V6_1)


def movable(prediction: Prediction) -> dict[int, int]:
    assert prediction.outcome.zone_movable_start is not None
    return dict(prediction.outcome.zone_movable_start)


def test_base_values() -> None:
    outcome = run(srat(C, N0, N1), SLIT2).outcome
    assert outcome.zone_movable_start == {1: 0x20000000}
    assert [(n.start, n.on_nid) for n in outcome.node_data or ()] == [(0x1FFD5000, 0), (0x1FFAA000, 0)]
    assert [(r.start, r.end, r.nid) for r in outcome.reserved or ()] == [
        (0, 0x100004, 0),
        (0x1000000, 0x3811000, 0),
        (0x1FFAA000, 0x20000000, None),
        (0x3FFE0000, 0x3FFE2330, None),
    ]
    assert [b.removable for b in outcome.blocks or ()] == [False] * 4 + [True] * 3 + [False]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        pytest.param((C, mem(0, 0, GIB, HOT)), {}, id="one node, all hot"),
        pytest.param(
            (C, mem(0, 0, 512 * MIB, HOT), N1), {1: 0x20000000}, id="both hot: the kernel's node is cleared"
        ),
        pytest.param(
            (C, N0, mem(1, 512 * MIB, 640 * MIB, HOT), mem(1, 640 * MIB, GIB)),
            {1: 0x20000000},
            id="hot below plain: the whole node is movable",
        ),
        pytest.param(
            (C, N0, mem(1, 512 * MIB, 640 * MIB), mem(1, 640 * MIB, GIB, HOT)),
            {1: 0x28000000},
            id="plain below hot",
        ),
        pytest.param(
            (C, mem(0, 0, 256 * MIB), mem(0, 256 * MIB, 512 * MIB, HOT), mem(1, 512 * MIB, GIB)),
            {},
            id="hot inside the kernel's node",
        ),
        pytest.param(
            (C, mem(0, 0, 0x20005000), mem(1, 0x20005000, GIB, HOT)), {1: 0x20400000}, id="page-aligned start"
        ),
        pytest.param(
            (C, mem(0, 0, 0x20000064), mem(1, 0x20000064, GIB, HOT)), {1: 0x20000000}, id="sub-page start"
        ),
        pytest.param(
            (C, N0, mem(1, 512 * MIB, GIB), mem(2, 768 * MIB, 768 * MIB - MIB, HOT)),
            {1: 0x30000000},
            id="wrapped hot entry marks another node's RAM",
        ),
        pytest.param((C, N0, mem(2, 0, 0, HOT), N1), {2: 0x20000000}, id="zero length numbers a node"),
    ],
)
def test_hot_range_geometry(entries: tuple[bytes, ...], expected: dict[int, int]) -> None:
    assert movable(run(srat(*entries), SLIT2)) == expected


def test_an_empty_hot_entry_marks_and_cuts_nothing() -> None:
    prediction = run(srat(C, N0, mem(1, 768 * MIB, 768 * MIB, HOT), mem(1, 512 * MIB, GIB)))
    assert [e.use for e in prediction.entries] == [EntryUse.ACCEPTED, EntryUse.EMPTY, EntryUse.ACCEPTED]
    assert [(r.start, r.nid) for r in prediction.outcome.memory or ()] == [
        (0x1000, 0),
        (MIB, 0),
        (512 * MIB, 1),
    ]
    assert movable(prediction) == {}


def test_all_hot_leaves_no_room_for_the_distance_table() -> None:
    prediction = run(srat(C, mem(0, 0, 512 * MIB, HOT), N1), slit(bytes([10, 31]), bytes([31, 10])))
    assert "Warning: can't allocate distance table!" in prediction.outcome.messages
    assert prediction.outcome.distances == ((10, 20), (20, 10))


def test_initrd_on_a_hot_node_is_named() -> None:
    prediction = run(srat(C, N0, N1), initrd=4 * MIB)
    assert movable(prediction) == {}
    assert prediction.kernel_nodes == {1: ("initrd",)}


def test_the_array_of_many_reserved_regions_is_named() -> None:
    pages = [mem(page % 2, page << 12, page + 1 << 12) for page in range(256)]
    tables = srat(*pages, mem(0, MIB, 512 * MIB), mem(2, 512 * MIB, GIB, HOT))
    assert "memblock.reserved array" in run(tables, cmdline="").kernel_nodes[2]


def test_above_4g_hole_with_acpi_tables_clears_the_node() -> None:
    one_entry = run(srat(C, N0, mem(1, 512 * MIB, 5 * GIB, HOT)), memory=3 * GIB)
    assert movable(one_entry) == {}
    assert one_entry.kernel_nodes == {1: ("ACPI tables",)}
    own_domain = run(
        srat(C, N0, mem(1, 512 * MIB, 2 * GIB, HOT), mem(2, 4 * GIB, 5 * GIB, HOT)), memory=3 * GIB
    )
    assert movable(own_domain)[2] == 4 * GIB


def test_tiny_hot_node_stays_normal() -> None:
    prediction = run(
        srat(
            C,
            mem(0, 0, 2 * GIB),
            mem(0, 4 * GIB, 4 * GIB + MIB),
            mem(1, 4 * GIB + MIB, 4 * GIB + 3 * MIB, HOT),
            mem(2, 4 * GIB + 3 * MIB, 5 * GIB),
        ),
        memory=3 * GIB,
    )
    assert movable(prediction) == {}
    assert {z.zone for z in prediction.outcome.zones or () if z.nid == 1} == {"Normal"}


@pytest.mark.parametrize(
    ("missing", "state", "panics"),
    [
        (2 * KIB, NumaState.SRAT, False),
        (4 * KIB, NumaState.SRAT, True),
        (MIB - 4 * KIB, NumaState.SRAT, True),
        (MIB, NumaState.DUMMY, False),
        (MIB + 4 * KIB, NumaState.DUMMY, False),
    ],
)
def test_coverage(missing: int, state: NumaState, panics: bool) -> None:
    outcome = run(srat(C, N0, mem(1, 512 * MIB, 0x3FFE0000 - missing, HOT))).outcome
    assert outcome.numa is state
    assert (outcome.panic is not None) is panics
    if state is NumaState.DUMMY:
        assert outcome.numa_reason is NumaReason.COVERAGE


def test_low_ram_uncovered_panics() -> None:
    assert run(srat(C, mem(0, MIB, 512 * MIB), N1)).outcome.panic is not None


@pytest.mark.parametrize(
    ("table_bytes", "reason"),
    [
        pytest.param(srat(C, N0, N1, b"\x77\0\0"), NumaReason.ZERO_LENGTH, id="zero length"),
        pytest.param(srat(C, N0, N1, b"\0\0"), NumaReason.ACCEPTED, id="two zero bytes at the end"),
        pytest.param(srat(C, N0, b"\x77\5\0\0\0", N1), NumaReason.ACCEPTED, id="unknown type"),
        pytest.param(srat(cpu(length=17) + b"\0", N0, N1), NumaReason.BAD_SRAT, id="CPU entry of 17 bytes"),
        pytest.param(
            srat(C, N0, N1, mem(1, 0, 0, flags=0, length=39)), NumaReason.BAD_SRAT, id="short disabled entry"
        ),
        pytest.param(srat(C, N0, mem(1024, 512 * MIB, GIB)), NumaReason.BAD_SRAT, id="domain 1024"),
        pytest.param(srat(C, N0, mem(1023, 512 * MIB, GIB)), NumaReason.ACCEPTED, id="domain 1023"),
        pytest.param(srat(C), NumaReason.NO_MEMORY_AFFINITY, id="processors only"),
        pytest.param(srat(C, mem(0, 0, 600 * MIB), N1), NumaReason.OVERLAP, id="overlap in RAM"),
        pytest.param(
            srat(C, N0, N1, mem(0, 8 * GIB, 9 * GIB), mem(2, 8 * GIB, 9 * GIB)),
            NumaReason.ACCEPTED,
            id="overlap above RAM",
        ),
        pytest.param(srat(C, mem(0, 0, 0)), NumaReason.COVERAGE, id="only zero-length memory"),
        pytest.param(
            srat(C, N0, N1, *(mem(2, (4 + i) * GIB, (5 + i) * GIB) for i in range(2046))),
            NumaReason.ACCEPTED,
            id="2048 entries",
        ),
        pytest.param(
            srat(C, N0, N1, *(mem(2, (4 + i) * GIB, (5 + i) * GIB) for i in range(2047))),
            NumaReason.BAD_SRAT,
            id="2049 entries",
        ),
    ],
)
def test_malformed(table_bytes: bytes, reason: NumaReason) -> None:
    assert run(table_bytes).outcome.numa_reason is reason


def test_entry_cut_at_the_end_is_read_past_the_table() -> None:
    whole = srat(C, N0, N1)
    cut = bytearray(whole[:-37])
    cut[4:8] = len(cut).to_bytes(4, "little")
    machine = Machine(
        e820=Q35(GIB).resolve(()).e820, placed=Q35(GIB).resolve(()).placed, after_tables=whole[-37:]
    )
    prediction = predict(Case(machine=machine, tables=(bytes(cut),), cmdline="movable_node"), V6_1)
    assert movable(prediction) == {1: 0x20000000}
    dropped = bytearray(whole[:-38])
    dropped[4:8] = len(dropped).to_bytes(4, "little")
    assert run(bytes(dropped)).outcome.numa_reason is NumaReason.COVERAGE


def test_revision_1_masks_the_domain() -> None:
    prediction = run(srat(C, N0, mem(0x101, 512 * MIB, GIB, HOT), revision=1))
    assert prediction.outcome.pxm_to_node == {0: 0, 1: 1}
    assert prediction.entries[1].firmware_pxm == 0x101


def test_the_first_srat_wins() -> None:
    assert movable(run(srat(C, N0, N1), srat(C, mem(0, 0, GIB)))) == {1: 0x20000000}


def test_initiators_and_processors_number_nodes() -> None:
    ordinary = run(srat(initiator(5), C, N0, N1)).outcome
    assert ordinary.pxm_to_node == {5: 0, 0: 1, 1: 2}
    stopped = run(srat(initiator(5, flags=0), cpu(7), N0, N1)).outcome
    assert stopped.pxm_to_node == {0: 0, 1: 1}
    ids = run(srat(x2apic(9, 254), x2apic(8, 255), x2apic(7, 300), C, N0, N1)).outcome
    assert ids.pxm_to_node == {9: 0, 0: 1, 1: 2}


@pytest.mark.parametrize(
    ("table_bytes", "valid"),
    [
        (slit(count=0), True),
        (slit(b"\x0a"), True),
        (slit(b"\x0b"), False),
        (slit(bytes([10, 20]), bytes([20, 10]), count=3), False),
        (slit(bytes([10, 10]), bytes([20, 10])), False),
        (slit(bytes([10, 255]), bytes([11, 10])), True),
    ],
)
def test_slit(table_bytes: bytes, valid: bool) -> None:
    messages = run(srat(C, N0, N1), table_bytes).outcome.messages
    assert ("SLIT table looks invalid. Not used." not in messages) is valid


_TWO = srat(C, mem(0, 0, 2 * GIB), mem(1, 4 * GIB, 5 * GIB))
_TWO_HOT = srat(C, mem(0, 0, 2 * GIB), mem(1, 4 * GIB, 5 * GIB, HOT))


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        ("kernelcore=1G", {1: 0x100000000}),
        ("kernelcore=25%", {1: 0x100000000}),
        ("movablecore=512M", {1: 0x120000000}),
        ("movablecore=1500M", {1: 0x100000000}),
        ("movablecore=100%", {}),
        ("kernelcore=3G", {}),
        ("movable_node movablecore=512M", {}),
        ("kernelcore=mirror", {1: 0x100000000}),
    ],
)
def test_command_line(cmdline: str, expected: dict[int, int]) -> None:
    assert movable(run(_TWO, memory=3 * GIB, cmdline=cmdline)) == expected


def test_movable_node_wins_over_kernelcore() -> None:
    assert movable(run(_TWO_HOT, memory=3 * GIB, cmdline="movable_node=off kernelcore=2900M")) == {1: 4 * GIB}


def test_kernelcore_spread_over_three_nodes() -> None:
    entries = (C, mem(0, 0, 2 * GIB), mem(1, 4 * GIB, 6 * GIB), mem(2, 6 * GIB, 7 * GIB))
    pages = {1: 1311744, 2: 1573888}
    expected = {nid: pfn << 12 for nid, pfn in pages.items()}
    assert movable(run(srat(*entries), memory=5 * GIB, cmdline="kernelcore=3G")) == expected


def test_memory_limit_cuts_the_node() -> None:
    prediction = run(srat(C, N0, N1), cmdline="movable_node mem=768M")
    assert movable(prediction) == {1: 0x20000000}
    assert (prediction.outcome.memory or ())[-1].end == 768 * MIB


def test_reserved_hole_leaves_the_zone_and_spoils_the_block() -> None:
    prediction = run(srat(C, N0, N1), cmdline="movable_node memmap=16M$0x30000000")
    assert movable(prediction) == {1: 0x20000000}
    block = next(b for b in prediction.outcome.blocks or () if b.start == 0x30000000)
    assert (block.removable, block.reason) == (False, "has a hole")


@pytest.mark.parametrize(("cmdline", "state"), [("numa=off", NumaState.OFF), ("acpi=off", NumaState.DUMMY)])
def test_turned_off(cmdline: str, state: NumaState) -> None:
    assert run(srat(C, N0, N1), cmdline=cmdline).outcome.numa is state


def test_a_servers_own_reservations_decide() -> None:
    machine = Machine(
        e820=(E820Entry(0, 4 * GIB, E820Type.USABLE),),
        reserved=(
            Reserved(16 * MIB, 64 * MIB, "kernel image"),
            Reserved(3 * GIB, 3 * GIB + 4096, "EFI boot services"),
        ),
    )
    table_bytes = srat(C, mem(0, 0, 2 * GIB), mem(1, 2 * GIB, 4 * GIB, HOT))
    prediction = predict(Case(machine=machine, tables=(table_bytes,), cmdline="movable_node"), V6_1)
    assert prediction.kernel_nodes == {1: ("EFI boot services",)}


def test_entry_verdicts() -> None:
    uses = [
        entry.use
        for entry in run(
            srat(
                C, N0, N1, mem(1, 0, 0), mem(1, 8 * GIB, 4 * GIB), mem(1, 9 * GIB, 10 * GIB), mem(2, 0, 1, 0)
            )
        ).entries
    ]
    assert uses == [
        EntryUse.ACCEPTED,
        EntryUse.ACCEPTED,
        EntryUse.EMPTY,
        EntryUse.WRAPPED,
        EntryUse.NOT_RAM,
        EntryUse.DISABLED,
    ]


def test_numa_noacpi_walks_the_srat_and_takes_nothing() -> None:
    outcome = run(srat(initiator(5), C, N0, N1), cmdline="numa=noacpi").outcome
    assert (outcome.numa, outcome.numa_reason) == (NumaState.DUMMY, NumaReason.TURNED_OFF)
    assert outcome.pxm_to_node == {5: 0}


@pytest.mark.parametrize(
    ("entries", "count", "panic"),
    [
        ((C, mem(0, 0, GIB)), 1 << 32, None),
        ((C, N0, N1), 1 << 32, "BUG: unable to handle page fault in acpi_numa_slit_init"),
        ((C, N0, N1), 1 << 62, "PANIC: early exception 0x0d"),
        ((C, N0, N1), (1 << 64) - 1, None),
    ],
)
def test_slit_count_beyond_int(entries: tuple[bytes, ...], count: int, panic: str | None) -> None:
    assert run(srat(*entries), slit(count=count)).outcome.panic == panic


@pytest.mark.parametrize(("stripes", "lost"), [(120, False), (124, True)])
def test_memblocks_own_array_costs_a_node_its_marks_and_is_named(stripes: int, lost: bool) -> None:
    """128 regions fill memblock's first array; its successor goes to the topmost memory that is not hot."""
    edges = [256 * MIB + n * 8 * MIB for n in range(stripes + 1)]
    hot = [mem(1 + n % 2, start, end, HOT) for n, (start, end) in enumerate(pairwise(edges))]
    top = edges[-1] + 128 * MIB
    last = (mem(3, edges[-1], top), mem(3, top, 2 * GIB, HOT))
    prediction = run(srat(mem(0, 0, 256 * MIB), *hot, *last), memory=2 * GIB)
    assert prediction.kernel_nodes.get(3) == (("memblock.memory array",) if lost else None)
    assert (3 in (prediction.outcome.zone_movable_start or {})) is not lost


def test_a_slit_is_walked_to_its_end_without_a_distance_table() -> None:
    """numa_set_distance() has nowhere to write, but its argument is read from the SLIT for every pair."""
    hot = [mem(pxm, pxm * 512 * MIB, (pxm + 1) * 512 * MIB, HOT) for pxm in (0, 1)]
    outcome = run(srat(C, *hot), slit(count=1 << 32)).outcome
    assert "Warning: can't allocate distance table!" in outcome.messages
    assert outcome.panic == "BUG: unable to handle page fault in acpi_numa_slit_init"


@pytest.mark.parametrize(("kernel", "missing", "owner"), [("v6.1", 512 * KIB, 1024), ("v6.12", MIB, 0)])
def test_node_data_in_memory_without_a_node(kernel: str, missing: int, owner: int) -> None:
    table_bytes = srat(C, N0, mem(1, 512 * MIB, 0x3FFE0000 - missing, HOT))
    case = Case(machine=Q35(GIB), tables=(table_bytes,), cmdline="movable_node")
    assert [n.on_nid for n in predict(case, POLICIES[kernel]).outcome.node_data or ()] == [0, owner]


_NULL = "BUG: kernel NULL pointer dereference in subsection_map_init"


@pytest.mark.parametrize(
    ("kernel", "left", "panic"),
    [
        ("v5.10", 0, _NULL),
        ("v5.10", 16 * MIB, "cannot initialize percpu area (err=-12)"),
        ("v5.10", 24 * MIB, None),
        ("v6.1", 0, "memory_present: Failed to allocate 16384 bytes align=0x40"),
        ("v6.1", 64 * KIB, _NULL),
        ("v6.1", 24 * MIB, None),
        ("v6.12", 64 * KIB, "Cannot allocate 174464 bytes for node 0 data"),
        ("v6.12", 192 * KIB, "Cannot allocate 174464 bytes for node 1 data"),
        ("v6.12", 16 * MIB, _NULL),
        ("v6.12", 24 * MIB, None),
        ("v7.3", 192 * KIB, "Cannot allocate 176320 bytes for node 1 data"),
        ("v7.3", 2 * MIB, "Failed to allocate memmap for section 0"),
        ("v7.3", 16 * MIB, "Failed to allocate memmap for section 7"),
        ("v7.3", 24 * MIB, None),
    ],
)
def test_plain_memory_of_the_image_and_little_more(kernel: str, left: int, panic: str | None) -> None:
    build = BUILDS[kernel]
    end = build.brk_start + build.brk_used + left
    table_bytes = srat(
        C, mem(0, 0, MIB), mem(1, MIB, 16 * MIB, HOT), mem(0, 16 * MIB, end), mem(1, end, GIB, HOT)
    )
    case = Case(machine=Q35(GIB), tables=(table_bytes,), cmdline="movable_node")
    assert predict(case, POLICIES[kernel]).outcome.panic == panic


def test_an_array_of_regions_that_is_outgrown_is_freed() -> None:
    pages = [mem(page % 2, (256 + page) << 12, (257 + page) << 12) for page in range(400)]
    grown = run(srat(mem(0, 0, MIB), *pages, mem(0, (256 + 400) << 12, GIB)), cmdline="")
    first, last = [a for a in grown.allocations if a.purpose == "memblock.memory array"]
    reserved = grown.outcome.reserved or ()
    assert any(r.start <= last.start and r.end >= last.end for r in reserved)
    assert not any(r.start <= first.start and r.end >= first.end for r in reserved)
