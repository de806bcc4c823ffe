"""A worker's report as an `Outcome`, and whether a prediction says the same without building one."""

from __future__ import annotations

import struct
from functools import lru_cache

from acpitk.errors import ToolError
from acpitk.oracle.client import End, Report
from acpitk.outcome import NodeData, NumaReason, NumaState, Outcome, Region, Zone
from acpitk.ranges import PAGE_SHIFT

_STATES = (NumaState.SRAT, NumaState.DUMMY, NumaState.OFF)
_REASONS = (
    NumaReason.ACCEPTED, NumaReason.ZERO_LENGTH, NumaReason.BAD_SRAT, NumaReason.OVERLAP, NumaReason.COVERAGE,
    NumaReason.TURNED_OFF, NumaReason.NO_MEMORY_AFFINITY, NumaReason.NO_SRAT,
)  # fmt: skip
_ZONES = ("DMA", "DMA32", "Normal", "Movable", "Device")
_FLAGS = (
    "hotplug", "mirror", "nomap", "driver_managed", "rsrv_noinit", "rsrv_kern", "kho_scratch", "rsrv_hugetlb",
)  # fmt: skip
_STATE_NUMBER = {state: number for number, state in enumerate(_STATES)}
_REASON_NUMBER = {reason: number for number, reason in enumerate(_REASONS)}
_ZONE_NUMBER = {name: number for number, name in enumerate(_ZONES)}
_NONE = (1 << 64) - 1
_LOCAL, _REMOTE = 10, 20
_WIDTHS = (4, 4, 4, 2, 4, 2)


def outcome(report: Report, *, kernel: str, cmdline: str, messages: tuple[str, ...] = ()) -> Outcome:
    """What the kernel's data say after the run.

    Raises:
        ToolError: the run reached something the oracle does not have, or the worker died.
    """
    panic = _panic(report)
    if not report.stage:
        return Outcome(source="oracle", kernel=kernel, panic=panic, messages=messages)
    memory, reserved, node_data, movable, zones, pxm = _tables(report)
    reason = _REASONS[report.reason]
    if report.state == 1 and report.reason >= 6 and "numa=noacpi" in cmdline.split():
        reason = NumaReason.TURNED_OFF
    done = report.stage == 2
    return Outcome(
        source="oracle",
        kernel=kernel,
        numa=_STATES[report.state],
        numa_reason=reason if report.state else NumaReason.ACCEPTED,
        pxm_to_node={row[0]: row[1] for row in pxm},
        memory=tuple(_region(row[0], row[1], row[2], row[3]) for row in memory),
        reserved=tuple(_region(row[0], row[1], row[2], 0) for row in reserved),
        node_data=tuple(NodeData(*row) for row in sorted(node_data)),
        distances=_distances(report),
        zone_movable_start={nid: pfn << PAGE_SHIFT for nid, pfn in movable} if done else None,
        zones=tuple(
            Zone(key >> 8, _ZONES[key & 0xFF], start << PAGE_SHIFT, end << PAGE_SHIFT)
            for key, start, end, _ in zones
        )
        if done
        else None,
        panic=panic,
        messages=messages,
    )


def _panic(report: Report) -> str | None:
    if report.end is End.DONE:
        return None
    if report.end is End.HANG:
        return "hang"
    if report.end is End.STUB:
        raise ToolError(f"the oracle reached {report.text}, which it was built without")
    if report.end is End.DIED:
        raise ToolError(f"the oracle: {report.text}")
    return report.text.partition(" in 0x")[0].strip()


def _tables(report: Report) -> list[list[tuple[int, ...]]]:
    values = struct.unpack_from(f"<{_words(report)}Q", report.rows)
    out, at = [], 0
    for count, width in zip(report.counts, _WIDTHS, strict=False):
        out.append([values[i : i + width] for i in range(at, at + count * width, width)])
        at += count * width
    return out


def _words(report: Report) -> int:
    return sum(count * width for count, width in zip(report.counts, _WIDTHS, strict=False))


def _region(start: int, end: int, nid: int, flags: int) -> Region:
    words = tuple(word for bit, word in enumerate(_FLAGS) if flags >> bit & 1)
    return Region(start, end, None if nid == _NONE else nid, words)


def _matrix(report: Report) -> tuple[int, bytes]:
    side = report.counts[6]
    return side, report.rows[8 * _words(report) :][: side * side]


def _distances(report: Report) -> tuple[tuple[int, ...], ...]:
    side, cells = _matrix(report)
    size = report.counts[7]
    return tuple(
        tuple(
            cells[i * side + j] if i < side and j < side else _LOCAL if i == j else _REMOTE
            for j in range(size)
        )
        for i in range(size)
    )


@lru_cache(maxsize=64)
def _no_table(size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(_LOCAL if i == j else _REMOTE for j in range(size)) for i in range(size))


def same(prediction: Outcome, report: Report) -> bool:
    """Whether the report is what `prediction` says, to the last row.

    False where they may still agree in what `checks.differential.compare` compares.
    """
    if report.end is not End.DONE or prediction.panic is not None or report.stage != 2:
        return False
    p = prediction
    if p.numa is None or p.numa_reason is None:
        return False
    memory, reserved, nodes, zones = p.memory or (), p.reserved or (), p.node_data or (), p.zones or ()
    movable, pxm, distances = p.zone_movable_start or {}, p.pxm_to_node or {}, p.distances or ()
    counts = (len(memory), len(reserved), len(nodes), len(movable), len(zones), len(pxm))
    if report.counts[:6] != counts or report.state != _STATE_NUMBER[p.numa]:
        return False
    if report.state and report.reason != _REASON_NUMBER[p.numa_reason]:
        return False
    values = struct.unpack_from(f"<{_words(report)}Q", report.rows)
    want: list[int] = []
    for region in memory:
        nid, flags = region.nid, region.flags
        want += (
            region.start,
            region.end,
            _NONE if nid is None else nid,
            0 if not flags else 1 if flags == ("hotplug",) else _bits(flags),
        )
    at = len(want)
    if values[:at] != tuple(want):
        return False
    for region in reserved:
        nid = region.nid
        if values[at : at + 3] != (region.start, region.end, _NONE if nid is None else nid):
            return False
        at += 4
    want = []
    for node in nodes:
        want += (node.nid, node.start, node.end, node.on_nid)
    for nid, start in movable.items():
        want += (nid, start >> PAGE_SHIFT)
    if values[at : at + len(want)] != tuple(want):
        return False
    at += len(want)
    for zone in zones:
        if values[at : at + 3] != (
            zone.nid << 8 | _ZONE_NUMBER[zone.zone],
            zone.start >> PAGE_SHIFT,
            zone.end >> PAGE_SHIFT,
        ):
            return False
        at += 4
    if dict(zip(values[at::2], values[at + 1 :: 2], strict=True)) != pxm:
        return False
    side, cells = _matrix(report)
    if len(distances) != report.counts[7]:
        return False
    if side == len(distances):
        return cells == b"".join(map(bytes, distances))
    return not side and distances == _no_table(len(distances))


def _bits(flags: tuple[str, ...]) -> int:
    return sum(1 << _FLAGS.index(word) for word in flags)
