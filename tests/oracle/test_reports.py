"""A report as an outcome, and the quick comparison: equal only where every row is."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from acpitk.checks.differential import compare
from acpitk.errors import ToolError
from acpitk.kernel.boot import boot
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Q35, Case
from acpitk.oracle.client import End, Report
from acpitk.oracle.outcome import outcome, same
from acpitk.outcome import NumaState, Outcome
from acpitk.ranges import GIB, MIB
from acpitk.tables.slit import build_slit, encode_slit
from acpitk.tables.srat import MemoryAffinity, MemoryFlags, build_srat, encode_srat

ZONES = ("DMA", "DMA32", "Normal", "Movable")
NONE = (1 << 64) - 1


def affinity(pxm: int, start: int, end: int, *, hot: bool = False) -> MemoryAffinity:
    flags = MemoryFlags.ENABLED | (MemoryFlags.HOT_PLUGGABLE if hot else MemoryFlags(0))
    return MemoryAffinity(proximity_domain=pxm, base=start, length=end - start, flags=flags)


SRAT = encode_srat(build_srat((affinity(0, 0, 512 * MIB), affinity(1, 512 * MIB, GIB, hot=True))))
SLIT = encode_slit(build_slit([[10, 21], [21, 10]]))
CASE = Case(machine=Q35(GIB), tables=(SRAT, SLIT), cmdline="movable_node")
PREDICTED = boot(CASE, POLICIES["v6.1"])


def report_of(o: Outcome) -> Report:
    """The report of a kernel that did just that."""
    memory, reserved, nodes, zones = o.memory or (), o.reserved or (), o.node_data or (), o.zones or ()
    values: list[int] = []
    for region in memory:
        nid = NONE if region.nid is None else region.nid
        values += (region.start, region.end, nid, int("hotplug" in region.flags))
    for region in reserved:
        values += (region.start, region.end, NONE if region.nid is None else region.nid)
    for node in nodes:
        values += (node.nid, node.start, node.end, node.on_nid)
    for nid, start in (o.zone_movable_start or {}).items():
        values += (nid, start >> 12)
    for zone in zones:
        values += (zone.nid << 8 | ZONES.index(zone.zone), zone.start >> 12, zone.end >> 12)
    for pair in (o.pxm_to_node or {}).items():
        values += pair
    cells = b"".join(map(bytes, o.distances or ()))
    counts = (
        len(memory), len(reserved), len(nodes), len(o.zone_movable_start or {}), len(zones),
        len(o.pxm_to_node or {}), len(o.distances or ()), len(o.distances or ()),
    )  # fmt: skip
    rows = struct.pack(f"<{len(values)}Q", *values) + cells
    return Report(End.DONE, 2, 0, 0, counts, rows)


REPORT = report_of(PREDICTED)


def test_what_the_kernel_did_comes_back_as_it_was_predicted() -> None:
    assert PREDICTED.numa is NumaState.SRAT
    assert same(PREDICTED, REPORT)
    made = outcome(REPORT, kernel="v6.1", cmdline=CASE.cmdline)
    assert made.source == "oracle"
    assert compare(PREDICTED, made).agrees
    assert made.memory == PREDICTED.memory
    assert made.zones == PREDICTED.zones


@pytest.mark.parametrize("index", range(len(REPORT.rows) // 8 - 1))
def test_no_number_can_change_without_being_noticed(index: int) -> None:
    values = list(struct.unpack_from(f"<{len(REPORT.rows) // 8}Q", REPORT.rows))
    flags = index < 4 * REPORT.counts[0] and index % 4 == 3
    values[index] ^= 1 if flags else 1 << 13
    changed = replace(REPORT, rows=struct.pack(f"<{len(values)}Q", *values) + REPORT.rows[len(values) * 8 :])
    assert not same(PREDICTED, changed)
    assert outcome(changed, kernel="v6.1", cmdline="") != outcome(REPORT, kernel="v6.1", cmdline="")


def test_a_distance_that_differs_is_noticed() -> None:
    cells = len(PREDICTED.distances or ()) ** 2
    at = len(REPORT.rows) - cells
    changed = replace(REPORT, rows=REPORT.rows[:at] + bytes([99]) + REPORT.rows[at + 1 :])
    assert not same(PREDICTED, changed)
    assert not compare(PREDICTED, outcome(changed, kernel="v6.1", cmdline="")).agrees


@pytest.mark.parametrize(
    ("end", "text", "panic"),
    [
        (End.PANIC, "Kernel panic - not syncing: x", "Kernel panic - not syncing: x"),
        (End.FAULT, "BUG: kernel NULL pointer dereference in 0x401", "BUG: kernel NULL pointer dereference"),
        (End.HANG, "", "hang"),
    ],
)
def test_a_death_is_an_outcome(end: End, text: str, panic: str) -> None:
    made = outcome(replace(REPORT, end=end, stage=1, text=text), kernel="v6.1", cmdline="")
    assert made.panic == panic
    assert made.zones is None
    assert not same(PREDICTED, replace(REPORT, end=end, text=text))


@pytest.mark.parametrize("end", [End.STUB, End.DIED])
def test_what_the_oracle_cannot_say_is_no_outcome(end: End) -> None:
    with pytest.raises(ToolError, match="no_such_function"):
        outcome(replace(REPORT, end=end, stage=0, text="no_such_function"), kernel="v6.1", cmdline="")
