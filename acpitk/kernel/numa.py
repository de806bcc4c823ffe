"""numa_init(): from parsed entries to nodes, or to the dummy node.

Source (6.1): arch/x86/mm/numa.c, functions named in each docstring.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from acpitk.kernel.memblock import HOTPLUG, NO_NID, REGION_ARRAYS, KernelPanicError, Memblock, Row
from acpitk.kernel.policy import Coverage, KernelExemption, NodeDataFailure, OfflineNodeData, TrimBounds
from acpitk.kernel.srat import Blk, Numa
from acpitk.machine import Reserved
from acpitk.outcome import NodeData, NumaReason
from acpitk.ranges import MIB, PAGE_SHIFT, PAGE_SIZE

_CACHE_LINE = 64
_MISSING_PAGES_LIMIT = MIB >> PAGE_SHIFT
_MASK64 = (1 << 64) - 1


def page_ranges(rows: list[Row], nid: int | None = None) -> Iterator[tuple[int, int, int]]:
    """for_each_mem_pfn_range(): (start_pfn, end_pfn, nid) of whole pages; `nid` None is every node."""
    for start, end, row_nid, _ in rows:
        if nid is None or row_nid == nid:
            low, high = (start + PAGE_SIZE - 1) >> PAGE_SHIFT, end >> PAGE_SHIFT
            if low < high:
                yield low, high, row_nid


def node_pages(rows: list[Row]) -> dict[int, list[tuple[int, int]]]:
    """Node -> its ranges of whole pages, ascending; what has no node is under `NO_NID`."""
    pages: dict[int, list[tuple[int, int]]] = {}
    for start, end, nid in page_ranges(rows):
        pages.setdefault(nid, []).append((start, end))
    return pages


def reset(numa: Numa, mb: Memblock) -> None:
    """What numa_init() clears before each attempt."""
    numa.nodes_parsed.clear()
    numa.cpu_nodes.clear()
    numa.meminfo.clear()
    mb.reset_nodes(keep_marks=numa.policy.marks_survive_rejection)
    if numa.distance_count:
        mb.free(numa.distance_at, numa.distance_at + numa.distance_count**2)
    numa.distance_at = numa.distance_count = 0
    numa.distance_failed = False
    numa.distances.clear()


def cleanup_meminfo(numa: Numa, mb: Memblock, max_pfn: int) -> NumaReason | None:
    """numa_cleanup_meminfo(): trim to RAM, reject overlaps of nodes, join blocks of one node."""
    if numa.policy.trim_bounds is TrimBounds.DRAM:
        low, high = mb.memory[0][0], mb.memory[-1][1]
    else:
        low, high = 0, max_pfn << PAGE_SHIFT
    kept = []
    for blk in numa.meminfo:
        if not mb.overlaps_memory(blk.start, blk.end):
            continue
        start, end = max(blk.start, low), min(blk.end, high)
        if start < end:
            kept.append(Blk(start, end, blk.nid))
    numa.meminfo[:] = kept
    return _join(numa, numa.meminfo)


def _join(numa: Numa, blks: list[Blk]) -> NumaReason | None:
    others: dict[int, tuple[list[int], list[int]]] = {}
    i = 0
    while i < len(blks):
        bi = blks[i]
        j = i + 1
        while j < len(blks):
            bj = blks[j]
            if bi.nid != bj.nid and (bi.end <= bj.start or bi.start >= bj.end):
                j += 1
                continue
            if bi.end > bj.start and bi.start < bj.end:
                where = (
                    f"node {bi.nid} [mem {bi.start:#010x}-{bi.end - 1:#010x}] overlaps with",
                    f"[mem {bj.start:#010x}-{bj.end - 1:#010x}]",
                )
                if bi.nid != bj.nid and numa.policy.overlap_rejects:
                    numa.messages.append(f"{where[0]} node {bj.nid} {where[1]}")
                    return NumaReason.OVERLAP
                numa.messages.append(f"Warning: {where[0]} itself {where[1]}")
            if bi.nid == bj.nid:
                start, end = min(bi.start, bj.start), max(bi.end, bj.end)
                adjacent = bi.end >= bj.start and bj.end >= bi.start
                if adjacent or numa.policy.holes_swallowed:
                    if bi.nid not in others:
                        others[bi.nid] = _others(blks, bi.nid)
                    starts, reach = others[bi.nid]
                    below = bisect_left(starts, end)
                    if not below or reach[below - 1] <= start:
                        bi.start, bi.end = start, end
                        del blks[j]
                        others = {bi.nid: others[bi.nid]}
                        continue
            j += 1
        i += 1
    return None


def _others(blks: list[Blk], nid: int) -> tuple[list[int], list[int]]:
    """Where the blocks of other nodes start, ascending, and how far those up to each reach."""
    spans = sorted([(blk.start, blk.end) for blk in blks if blk.nid != nid])
    return [start for start, _ in spans], list(accumulate([end for _, end in spans], max))


def register(
    numa: Numa, mb: Memblock, max_pfn: int, owners: list[Reserved]
) -> tuple[NumaReason | None, dict[int, tuple[str, ...]]]:
    """numa_register_memblks() up to the coverage check: label RAM, exempt kernel nodes, check coverage.

    Returns:
        The reason to refuse (None: accepted) and, per node that lost hotplug marks, the owners of the
        reserved memory that cost it them.
    """
    for blk in numa.meminfo:
        mb.set_memory_node(blk.start, blk.end, blk.nid)
    whole_nodes = numa.policy.kernel_exemption is KernelExemption.NODE
    lost = _clear_kernel_nodes(numa, mb, owners) if whole_nodes else {}
    if not _covered(numa, mb, max_pfn):
        return NumaReason.COVERAGE, lost
    return None, lost


def _clear_kernel_nodes(numa: Numa, mb: Memblock, owners: list[Reserved]) -> dict[int, tuple[str, ...]]:
    """numa_clear_kernel_node_hotplug()."""
    for blk in numa.meminfo:
        mb.set_reserved_node(blk.start, blk.end, blk.nid)
    kernel_nodes = {row[2] for row in mb.reserved if row[2] >= 0}
    if not any(row[3] & HOTPLUG for row in mb.memory):
        return {}
    marked = {row[2] for row in mb.memory if row[3] & HOTPLUG}
    lost: dict[int, tuple[str, ...]] = {}
    arrays = [Reserved(start, end, what) for what, start, end, _ in mb.log if what in REGION_ARRAYS]
    owners = [*owners, *arrays]  # what memblock took for itself while it was split
    for blk in numa.meminfo:
        if blk.nid not in kernel_nodes:
            continue
        mb.clear_hotplug(blk.start, blk.end)
        if blk.nid in marked:
            here = {r.owner for r in owners if r.start < blk.end and r.end > blk.start}
            lost[blk.nid] = tuple(sorted(here.union(lost.get(blk.nid, ()))))
    return lost


def _covered(numa: Numa, mb: Memblock, max_pfn: int) -> bool:
    """numa_meminfo_cover_memory(), or memblock_validate_numa_coverage()."""
    if numa.policy.coverage is Coverage.UP_TO_1M:
        missing = sum(end - start for start, end, nid in page_ranges(mb.memory) if nid == NO_NID)
        if missing > _MISSING_PAGES_LIMIT:
            numa.messages.append(f"NUMA: no nodes coverage for {missing >> 8}MB of RAM")
            return False
        return True
    pages = node_pages(mb.memory)
    numa_pages = 0
    for blk in numa.meminfo:
        numa_pages += _present(pages.get(blk.nid, []), blk.start >> PAGE_SHIFT, blk.end >> PAGE_SHIFT)
    e820_pages = sum([_present(ranges, 0, max_pfn) for ranges in pages.values()])
    if e820_pages - numa_pages >= _MISSING_PAGES_LIMIT:
        numa.messages.append(
            f"NUMA: nodes only cover {numa_pages >> 8}MB of your {e820_pages >> 8}MB e820 RAM. Not used."
        )
        return False
    return True


def _present(ranges: list[tuple[int, int]], low: int, high: int) -> int:
    """Pages of [low, high) in `ranges`: the complement of __absent_pages_in_range()."""
    present = 0
    for start, end in ranges:
        if start < high and end > low:
            present += min(end, high) - max(start, low)
    return present


def allocate_node_data(numa: Numa, mb: Memblock, max_pfn: int) -> list[NodeData]:
    """alloc_node_data() for every node with memory, ascending; these nodes come online.

    Raises:
        KernelPanicError: no memory where the policy panics.
    """
    spans: dict[int, tuple[int, int]] = {}
    for blk in numa.meminfo:
        start, end = spans.get(blk.nid, (max_pfn << PAGE_SHIFT, 0))
        spans[blk.nid] = (min(start, blk.start), max(end, blk.end))
    placed: list[NodeData] = []
    if numa.policy.nodes_need_pages:
        paged = {nid for _, _, nid in page_ranges(mb.memory)}
        spans = {nid: span for nid, span in spans.items() if nid in paged}
    for nid, (start, end) in sorted(spans.items()):
        if start >= end:
            continue
        size = numa.build.node_data
        exact = not numa.policy.node_data_elsewhere
        at = mb.allocate(f"NODE_DATA({nid})", size, _CACHE_LINE, nid=nid, exact=exact)
        if at:
            owner = mb.nid_of(at)
            if owner == NO_NID:
                first = numa.policy.unassigned_is_first_node and placed
                owner = placed[0].nid if first else numa.build.max_numnodes
            placed.append(NodeData(nid, at, at + size, owner))
        elif numa.policy.node_data_failure is NodeDataFailure.PANIC:
            raise KernelPanicError(f"Cannot allocate {size} bytes for node {nid} data")
        else:
            numa.messages.append(f"Cannot find {size} bytes in any node (initial node: {nid})")
    return placed


def allocate_offline_node_data(numa: Numa, mb: Memblock, online: set[int]) -> None:
    """free_area_init(): a pg_data_t for every possible node that has none yet, ascending.

    Raises:
        KernelPanicError: no memory where the policy panics.
    """
    failure = numa.policy.offline_node_data
    if failure is OfflineNodeData.NONE:
        return
    size = numa.build.node_data
    for nid in sorted(numa.nodes_parsed.union([blk.nid for blk in numa.meminfo]) - online):
        if mb.allocate_retry(f"NODE_DATA({nid})", size, _CACHE_LINE) or failure is OfflineNodeData.TRIED:
            continue
        if failure is OfflineNodeData.PANIC:
            raise KernelPanicError(f"Cannot allocate {size}B for node {nid}.")
        raise KernelPanicError(f"alloc_offline_node_data: Failed to allocate {size:#018x} bytes")
