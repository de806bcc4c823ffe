"""Zones: where ZONE_MOVABLE starts and what every zone spans.

Source (6.1): find_zone_movable_pfns_for_nodes(), adjust_zone_range_for_zone_movable(),
calculate_node_totalpages() in mm/page_alloc.c; zone_sizes_init() in arch/x86/mm/init.c.
Everything is in pages unless it says bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from acpitk.kernel.cmdline import CommandLine
from acpitk.kernel.memblock import HOTPLUG, MIRROR, NO_NID, Row
from acpitk.kernel.numa import node_pages, page_ranges
from acpitk.kernel.policy import HotplugStart, KernelPolicy, MirrorWithoutMirror
from acpitk.outcome import Zone
from acpitk.ranges import GIB, MIB, PAGE_SHIFT, PAGE_SIZE, pfn_up

MAX_ORDER_PAGES = 1024
_DMA_PFN, _DMA32_PFN, _4G_PFN = 16 * MIB >> PAGE_SHIFT, 4 * GIB >> PAGE_SHIFT, 4 * GIB >> PAGE_SHIFT
_KERNEL_ZONES = ("DMA", "DMA32", "Normal")


class ZoneLayout(NamedTuple):
    """Where ZONE_MOVABLE starts per node, and all populated zones (bytes)."""

    movable_start: dict[int, int]
    zones: tuple[Zone, ...]


def lay_out(
    memory: list[Row], nids: list[int], max_pfn: int, options: CommandLine, policy: KernelPolicy
) -> ZoneLayout:
    """free_area_init() for the online nodes `nids`."""
    limits = _arch_limits(memory[0][0] >> PAGE_SHIFT, max_pfn)
    pages = node_pages(memory)
    pages.pop(NO_NID, None)
    spans = {nid: (ranges[0][0], ranges[-1][1]) for nid, ranges in pages.items()}
    movable = _movable_starts(memory, limits, spans, options, policy)
    mirrored = options.mirror and not policy.mirror_cuts_zones
    zones: list[Zone] = []
    for nid in nids:
        if nid in spans:
            zones += _node_zones(memory, nid, pages[nid], limits, movable.get(nid, 0), mirrored)
    return ZoneLayout(
        movable_start={nid: pfn << PAGE_SHIFT for nid, pfn in sorted(movable.items())}, zones=tuple(zones)
    )


def _arch_limits(first: int, max_pfn: int) -> list[tuple[int, int]]:
    limits = []
    for limit in (min(_DMA_PFN, max_pfn), min(_DMA32_PFN, max_pfn), max_pfn):
        end = max(limit, first)
        limits.append((first, end))
        first = end
    return limits


def _movable_zone(limits: list[tuple[int, int]]) -> int:
    """find_usable_zone_for_movable(): index of the highest zone that is not empty."""
    return max([i for i, (low, high) in enumerate(limits) if high > low])


def _movable_starts(
    memory: list[Row],
    limits: list[tuple[int, int]],
    spans: dict[int, tuple[int, int]],
    options: CommandLine,
    policy: KernelPolicy,
) -> dict[int, int]:
    """find_zone_movable_pfns_for_nodes()."""
    starts: dict[int, int] = {}
    ignored = policy.mirror_without_mirror is MirrorWithoutMirror.IGNORED
    if options.given(policy.hotplug_option) and policy.movable_node_first:
        for start, _, nid, flags in memory:
            if flags & HOTPLUG and nid != NO_NID:
                pfn = start >> PAGE_SHIFT if policy.hotplug_start is HotplugStart.PFN_DOWN else pfn_up(start)
                starts[nid] = min(starts.get(nid) or pfn, pfn)
    elif options.mirror:
        if ignored and not any(row[3] & MIRROR for row in memory):
            return {}
        for start, _, nid, flags in memory:
            pfn = pfn_up(start)
            if not flags & MIRROR and pfn >= _4G_PFN and nid != NO_NID:
                starts[nid] = min(starts.get(nid) or pfn, pfn)
    else:
        spread = _spread_kernelcore(memory, limits, options)
        if spread is None:
            return {}
        starts = spread
    aligned = {}
    for nid, pfn in starts.items():
        if nid in spans:
            pfn = -(-pfn // MAX_ORDER_PAGES) * MAX_ORDER_PAGES
            dropped = pfn >= spans[nid][1] and not policy.movable_past_node_end
        else:
            dropped = policy.pageless_movable_dropped
        if pfn and not dropped:
            aligned[nid] = pfn
    return aligned


def _spread_kernelcore(
    memory: list[Row], limits: list[tuple[int, int]], options: CommandLine
) -> dict[int, int] | None:
    """kernelcore= and movablecore= spread over the nodes; None: no ZONE_MOVABLE."""
    ranges = node_pages(memory)
    ranges.pop(NO_NID, None)
    total = sum(end - start for start, end, _ in page_ranges(memory))
    kernelcore, movablecore = options.kernelcore, options.movablecore
    if options.kernelcore_percent:
        kernelcore = total * 100 * options.kernelcore_percent // 10000
    if options.movablecore_percent:
        movablecore = total * 100 * options.movablecore_percent // 10000
    if movablecore:
        movablecore = min(total, -(-movablecore // MAX_ORDER_PAGES) * MAX_ORDER_PAGES)
        kernelcore = max(kernelcore, total - movablecore)
    if not kernelcore or kernelcore >= total:
        return None
    usable_from = limits[_movable_zone(limits)][0]
    starts = dict.fromkeys(ranges, 0)
    usable_nodes = len(ranges)
    while True:
        per_node = kernelcore // usable_nodes
        for nid in sorted(ranges):
            if kernelcore < per_node:
                per_node = kernelcore // usable_nodes
            remaining = per_node
            for low, end in ranges[nid]:
                start = max(low, starts[nid])
                if start >= end:
                    continue
                if start < usable_from:
                    kernel_pages = min(end, usable_from) - start
                    remaining -= min(kernel_pages, remaining)
                    kernelcore -= min(kernel_pages, kernelcore)
                    if end <= usable_from:
                        starts[nid] = end
                        continue
                    start = usable_from
                size = min(end - start, remaining)
                starts[nid] = start + size
                kernelcore -= min(kernelcore, size)
                remaining -= size
                if not remaining:
                    break
        usable_nodes -= 1
        if not usable_nodes or kernelcore <= usable_nodes:
            return starts


def _node_zones(
    memory: list[Row],
    nid: int,
    ranges: list[tuple[int, int]],
    limits: list[tuple[int, int]],
    movable: int,
    mirrored: bool,
) -> list[Zone]:
    node_start, node_end = ranges[0][0], ranges[-1][1]
    spans: list[tuple[str, int, int]] = []
    for name, (low, high) in zip(_KERNEL_ZONES, limits, strict=True):
        start, end = min(max(node_start, low), high), min(max(node_end, low), high)
        if movable:
            if start < movable < end and not mirrored:
                end = movable
            elif start >= movable:
                start = end
        spans.append((name, start, end))
    if movable:
        spans.append(("Movable", movable, min(node_end, limits[_movable_zone(limits)][1])))
    out = []
    for name, start, end in spans:
        start, end = max(start, node_start), min(end, node_end)
        if end <= start:
            continue
        present = sum(min(e, end) - max(s, start) for s, e in ranges if s < end and e > start)
        if mirrored and movable:
            present -= _moved_by_mirror(memory, start, end, name)
        # Moving more pages than the zone has wraps around, and the zone counts as populated.
        if present:
            out.append(Zone(nid, name, start * PAGE_SIZE, end * PAGE_SIZE))
    return out


def _moved_by_mirror(memory: list[Row], start: int, end: int, zone: str) -> int:
    """Pages zone_absent_pages_in_node() moves between Normal and Movable under kernelcore=mirror."""
    wanted = {"Movable": True, "Normal": False}.get(zone)
    if wanted is None:
        return 0
    return sum(
        max(0, min(row[1] >> PAGE_SHIFT, end) - max(pfn_up(row[0]), start))
        for row in memory
        if bool(row[3] & MIRROR) is wanted
    )
