"""Zones and distances read from guest memory, against what the log and the tables say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from acpitk import klog
from acpitk.machine import Q35, Case
from acpitk.outcome import Outcome, Zone
from acpitk.qemu.image import find_kernel
from acpitk.qemu.runner import BootEnd, Marker, boot
from acpitk.ranges import GIB, MIB
from acpitk.tables.slit import build_slit, encode_slit
from acpitk.tables.srat import Entry, MemoryAffinity, MemoryFlags, ProcessorAffinity, build_srat, encode_srat

pytestmark = [pytest.mark.qemu, pytest.mark.kernel]
HOT = MemoryFlags.ENABLED | MemoryFlags.HOT_PLUGGABLE
KERNELS = ["v5.10", "v6.1", "v6.12", "v7.3"]
Booter = Callable[..., Outcome]


def memory(pxm: int, start: int, end: int, flags: MemoryFlags = MemoryFlags.ENABLED) -> MemoryAffinity:
    return MemoryAffinity(proximity_domain=pxm, base=start, length=end - start, flags=flags)


@pytest.fixture
def outcome(qemu_path: Path, kernel_image: Callable[[str], Path]) -> Booter:
    def run(
        kernel: str,
        *entries: Entry,
        size: int = GIB,
        slit: list[list[int]] | None = None,
        marker: Marker = Marker.ZONES,
    ) -> Outcome:
        kernel_image(kernel)
        cpu = ProcessorAffinity(proximity_domain=0, apic_id=0)
        tables = [encode_srat(build_srat((cpu, *entries)))]
        if slit:
            tables.append(encode_slit(build_slit(slit)))
        case = Case(machine=Q35(size), tables=tuple(tables), cmdline="movable_node")
        result = boot(case, find_kernel(kernel), qemu=qemu_path, timeout=120, marker=marker)
        assert result.ended is BootEnd.MARKER
        assert log_ranges(result.console) == spans(result.outcome())
        return result.outcome()

    return run


def log_ranges(console: str) -> dict[int, tuple[int, int]]:
    """Node spans the kernel prints: `Initmem setup node 0 [mem ...]`."""
    rows = re.compile(r"Initmem setup node (\d+) \[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\]")
    found = [m for line in klog.lines(console) if (m := rows.match(line))]
    return {int(m[1]): (int(m[2], 16), int(m[3], 16) + 1) for m in found}


def spans(outcome: Outcome) -> dict[int, tuple[int, int]]:
    """Node spans, from the zones read from memory."""
    assert outcome.zones is not None
    out: dict[int, tuple[int, int]] = {}
    for zone in outcome.zones:
        start, end = out.get(zone.nid, (zone.start, zone.end))
        out[zone.nid] = (min(start, zone.start), max(end, zone.end))
    return out


@pytest.mark.parametrize("marker", list(Marker))
@pytest.mark.parametrize("kernel", KERNELS)
def test_zones_and_asymmetric_distances(kernel: str, marker: Marker, outcome: Booter) -> None:
    seen = outcome(
        kernel,
        memory(0, 0, 512 * MIB),
        memory(1, 512 * MIB, GIB, HOT),
        slit=[[10, 21], [31, 10]],
        marker=marker,
    )
    assert seen.distances == ((10, 21), (31, 10))
    assert seen.zones == (
        Zone(0, "DMA", 0x1000, 16 * MIB),
        Zone(0, "DMA32", 16 * MIB, 512 * MIB),
        Zone(1, "Movable", 512 * MIB, 0x3FFE0000),
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_table_that_cannot_be_allocated_leaves_default_distances(kernel: str, outcome: Booter) -> None:
    seen = outcome(
        kernel, memory(0, 0, 512 * MIB, HOT), memory(1, 512 * MIB, GIB, HOT), slit=[[10, 21], [31, 10]]
    )
    assert seen.distances == ((10, 20), (20, 10))


@pytest.mark.parametrize("kernel", KERNELS)
def test_nodes_beyond_the_slit_have_default_distances(kernel: str, outcome: Booter) -> None:
    seen = outcome(
        kernel,
        ProcessorAffinity(proximity_domain=7, apic_id=9),
        memory(0, 0, GIB),
        slit=[[10, 21], [31, 10]],
    )
    assert seen.distances == ((10, 20), (20, 10))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_server_of_144_gib_boots_at_full_size(kernel: str, outcome: Booter) -> None:
    seen = outcome(
        kernel,
        memory(0, 0, 66 * GIB),
        memory(1, 66 * GIB, 106 * GIB),
        memory(1, 106 * GIB, 146 * GIB, HOT),
        size=144 * GIB,
    )
    assert seen.zone_movable_start == {1: 106 * GIB}
    assert seen.zones is not None
    assert seen.zones[-2:] == (
        Zone(1, "Normal", 66 * GIB, 106 * GIB),
        Zone(1, "Movable", 106 * GIB, 146 * GIB),
    )
