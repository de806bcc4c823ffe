"""Memory blocks: size, zone, and whether each can be offlined.

Sources (6.1): probe_memory_block_size() in arch/x86/mm/init_64.c, early_node_zone_for_memory_block() in
drivers/base/memory.c, offline_pages() in mm/memory_hotplug.c.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache

from acpitk.kernel.memblock import Memblock, Row
from acpitk.outcome import Block, Zone
from acpitk.ranges import GIB, MIB, PAGE_SHIFT, PAGE_SIZE, align_down

_SMALL_BLOCK, _LARGE_BLOCK = 128 * MIB, 2 * GIB
_LARGE_FROM = 64 * GIB


class BlockReason(StrEnum):
    """Why a memory block can or cannot be offlined."""

    MOVABLE = "wholly in ZONE_MOVABLE"
    HOLE = "has a hole"
    SEVERAL_ZONES = "spans several zones or nodes"
    KERNEL_ZONE = "in a kernel zone"
    BOOT_MEMORY = "holds boot-time allocations"


def block_size(max_pfn: int, *, hypervisor: bool) -> int:
    """Bytes in a memory block: 128 MiB, and more from 64 GiB of RAM on."""
    end = max_pfn << PAGE_SHIFT
    if end < _LARGE_FROM:
        return _SMALL_BLOCK
    if not hypervisor:
        return _LARGE_BLOCK
    size = _LARGE_BLOCK
    while size > _SMALL_BLOCK and end % size:
        size >>= 1
    return size


def memory_blocks(
    mb: Memblock, zones: Iterable[Zone], max_pfn: int, *, hypervisor: bool
) -> tuple[Block, ...]:
    """Every memory block with RAM, its zone and its verdict.

    Args:
        mb: after all modelled boot-time allocations.
        zones: populated zones.
        max_pfn: end of RAM, pages.
        hypervisor: the CPU says it runs under one.
    """
    size = block_size(max_pfn, hypervisor=hypervisor)
    zones = tuple(zones)
    edges = sorted(
        {edge for row in (*mb.memory, *mb.reserved) for edge in row[:2]}
        | {edge for zone in zones for edge in (zone.start, zone.end)}
    )
    blocks: list[Block] = []
    reached = 0
    for row in mb.memory:
        start = max(align_down(row[0], size), reached)
        while start < row[1]:
            following = bisect_right(edges, start)
            quiet = align_down(edges[following], size) if following < len(edges) else start
            end = max(quiet, start + size)
            blocks += _run(start, end, size, *_verdict(mb, zones, start, start + size))
            start = reached = end
    return tuple(blocks)


@lru_cache(maxsize=4096)
def _run(
    start: int, end: int, size: int, nid: int | None, zone: str | None, reason: BlockReason
) -> tuple[Block, ...]:
    """Neighbouring blocks that share one verdict."""
    removable, certain = reason is BlockReason.MOVABLE, reason is not BlockReason.KERNEL_ZONE
    return tuple(
        Block(at, at + size, nid, zone, removable, reason.value, certain) for at in range(start, end, size)
    )


def _verdict(
    mb: Memblock, zones: tuple[Zone, ...], start: int, end: int
) -> tuple[int | None, str | None, BlockReason]:
    nids = {row[2] for row in mb.memory if row[0] < end and row[1] > start}
    inside = [z for z in zones if z.nid in nids and z.start < end and z.end > start]
    single = len(nids) == 1 and len(inside) == 1
    zone = inside[0].zone if single else None
    nid = next(iter(nids)) if len(nids) == 1 else None
    if zone is None:
        reason = BlockReason.SEVERAL_ZONES
    elif _present_bytes(mb.memory, start, end) != end - start:
        reason = BlockReason.HOLE
    elif zone != "Movable":
        reason = BlockReason.KERNEL_ZONE
    elif any(row[0] < end and row[1] > start for row in mb.reserved):
        reason = BlockReason.BOOT_MEMORY
    else:
        reason = BlockReason.MOVABLE
    return nid, zone, reason


def _present_bytes(memory: list[Row], start: int, end: int) -> int:
    """Bytes of whole pages of RAM in [start, end)."""
    joined: list[tuple[int, int]] = []
    for row in memory:
        if joined and joined[-1][1] == row[0]:
            joined[-1] = (joined[-1][0], row[1])
        else:
            joined.append((row[0], row[1]))
    return sum(
        max(0, min(high & -PAGE_SIZE, end) - max((low + PAGE_SIZE - 1) & -PAGE_SIZE, start))
        for low, high in joined
    )
