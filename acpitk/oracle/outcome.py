"""A worker's report as an `Outcome`, and whether a prediction says the same without building one."""

from __future__ import annotations

import struct
from functools import lru_cache

from acpitk.checks.differential import same_panic
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
_HOTPLUG = ("hotplug",)
_LOCAL, _REMOTE = 10, 20
LATER = "cannot initialize percpu area"
"""A death that the model foresees after the zones, which the oracle does not get to see."""
_WIDTHS = (4, 3, 4, 2, 3, 2)


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
            for key, start, end in zones
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
    """Whether the report is what `prediction` says, to the last row of what both got to.

    False where they may still agree in what `checks.differential.compare` compares.
    """
    p = prediction
    if report.end is End.DONE:
        if p.panic is not None and not p.panic.startswith(LATER):
            return False
    elif (
        p.panic is None
        or (report.end is not End.PANIC and report.end is not End.FAULT)
        or not same_panic(p.panic, report.text.partition(" in 0x")[0])
    ):
        return False
    if not report.stage:
        return True
    if p.numa is None or p.numa_reason is None or report.state != _STATE_NUMBER[p.numa]:
        return False
    # That the SRAT is not looked at, the kernel has no message for: see `outcome`.
    unsaid = report.state == 1 and report.reason >= 6 and p.numa_reason is NumaReason.TURNED_OFF
    if report.state and not unsaid and report.reason != _REASON_NUMBER[p.numa_reason]:
        return False
    movable, zones = p.zone_movable_start, p.zones
    if movable is None and report.stage == 2:
        return False
    counts = report.counts
    memory, reserved, nodes, pxm, distances = p.memory, p.reserved, p.node_data, p.pxm_to_node, p.distances
    if memory is None or reserved is None or nodes is None or pxm is None or distances is None:
        return False
    if counts[0] != len(memory) or counts[1] != len(reserved) or counts[2] != len(nodes):
        return False
    if counts[5] != len(pxm) or counts[7] != len(distances):
        return False
    want: list[int] = []
    for start, end, nid, flags in memory:
        want.append(start)
        want.append(end)
        want.append(_NONE if nid is None else nid)
        want.append(0 if not flags else 1 if flags == _HOTPLUG else _bits(flags))
    for start, end, nid, _ in reserved:
        want.append(start)
        want.append(end)
        want.append(_NONE if nid is None else nid)
    for node in nodes:
        want += node
    values = struct.unpack_from(f"<{_words(report)}Q", report.rows)
    at = len(want)
    if values[:at] != tuple(want):
        return False
    want = []
    if report.stage == 2 and movable is not None:
        if counts[3] != len(movable):
            return False
        for nid in sorted(movable):
            want.append(nid)
            want.append(movable[nid] >> PAGE_SHIFT)
        if zones is None:
            want += values[at + len(want) : at + len(want) + 3 * counts[4]]
        elif counts[4] != len(zones):
            return False
        else:
            for zone_nid, name, start, end in zones:
                want.append(zone_nid << 8 | _ZONE_NUMBER[name])
                want.append(start >> PAGE_SHIFT)
                want.append(end >> PAGE_SHIFT)
    for domain in sorted(pxm):
        want.append(domain)
        want.append(pxm[domain])
    if values[at:] != tuple(want):
        return False
    side, cells = _matrix(report)
    if side == len(distances):
        return cells == b"".join(map(bytes, distances))
    return not side and distances == _no_table(len(distances))


def _bits(flags: tuple[str, ...]) -> int:
    return sum(1 << _FLAGS.index(word) for word in flags)
