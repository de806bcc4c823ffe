"""Memory blocks: size, zone, and whether each can be offlined.

Sources (6.1): probe_memory_block_size() in arch/x86/mm/init_64.c, early_node_zone_for_memory_block() in
drivers/base/memory.c, offline_pages() in mm/memory_hotplug.c.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache

from acpitk.kernel.cmdline import CommandLine
from acpitk.kernel.memblock import Memblock, Row
from acpitk.kernel.policy import BlockZone, KernelBuild, KernelPolicy
from acpitk.outcome import Block, Outcome, Zone
from acpitk.ranges import GIB, MIB, PAGE_SHIFT, PAGE_SIZE, align_down, align_up

_SMALL_BLOCK, _LARGE_BLOCK = 128 * MIB, 2 * GIB
_LARGE_FROM = 64 * GIB
_FIRST_NODE = 0
_SAMPLE_STEP = 4 * MIB


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
    mb: Memblock, zones: Iterable[Zone], max_pfn: int, policy: KernelPolicy, *, hypervisor: bool
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
    blocks: list[Block] = []
    reached = 0
    for index, (low, high, _, _) in enumerate(mb.memory):
        start = max(align_down(low, size), reached)
        while start < high:
            edge = low if low > start else high  # nothing of memory or zones begins or ends before it
            for zone in zones:
                if start < zone.start < edge:
                    edge = zone.start
                if start < zone.end < edge:
                    edge = zone.end
            end = max(align_down(edge, size), start + size)
            nid, zone_name, reason = _verdict(mb.memory, index, zones, start, start + size, policy)
            if reason is BlockReason.MOVABLE:
                _movable(blocks, mb.reserved, start, end, size, nid)
            else:
                blocks += _run(start, end, size, nid, zone_name, reason)
            start = reached = end
    return tuple(blocks)


def _movable(
    blocks: list[Block], reserved: list[Row], start: int, end: int, size: int, nid: int | None
) -> None:
    """Add blocks wholly in ZONE_MOVABLE; those with boot-time allocations cannot be offlined."""
    index = bisect_left(reserved, (start,))
    if index and reserved[index - 1][1] > start:
        index -= 1
    for low, high, _, _ in reserved[index:]:
        if low >= end:
            break
        taken, free = max(align_down(low, size), start), min(align_up(high, size), end)
        if taken >= free:
            continue
        if start < taken:
            blocks += _run(start, taken, size, nid, "Movable", BlockReason.MOVABLE)
        blocks += _run(taken, free, size, nid, "Movable", BlockReason.BOOT_MEMORY)
        start = free
    if start < end:
        blocks += _run(start, end, size, nid, "Movable", BlockReason.MOVABLE)


def hot_added(
    outcome: Outcome, start: int, size: int, domain: int, options: CommandLine, build: KernelBuild
) -> tuple[Block, ...]:
    """The memory blocks of a device plugged into a running guest.

    Its node is that of the domain its device object states, or, where no table named that domain, the first
    node with memory: acpi_memory_enable_device() in drivers/acpi/acpi_memhotplug.c and
    memory_add_physaddr_to_nid(). Its zone, default_zone_for_pfn() in mm/memory_hotplug.c for memory no zone
    spans yet, is ZONE_MOVABLE under movable_node and Normal otherwise. Its SRAT flags do not matter.

    Args:
        outcome: the boot before the device came.
        start: where the device is, bytes, 4 GiB or above.
        size: bytes, whole memory blocks.
    """
    first = next((region.nid for region in outcome.memory or ()), None)
    nid = (outcome.pxm_to_node or {}).get(domain, first)
    movable = options.given("movable_node")
    zone, reason = ("Movable", BlockReason.MOVABLE) if movable else ("Normal", BlockReason.KERNEL_ZONE)
    return tuple(
        Block(at, at + _SMALL_BLOCK, nid, zone, movable, reason.value, movable, build.hot_added_online)
        for at in range(start, start + size, _SMALL_BLOCK)
    )


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
    memory: list[Row], index: int, zones: tuple[Zone, ...], start: int, end: int, policy: KernelPolicy
) -> tuple[int | None, str | None, BlockReason]:
    """Node, zone and reason of one block, boot-time allocations aside; `index` is of its first region."""
    low, high, nid, _ = memory[index]
    if low <= start and high >= end:  # one region, which is what most blocks are
        names = [z.zone for z in zones if z.start < end and z.end > start and z.nid == nid]
        if len(names) == 1:
            return nid, names[0], BlockReason.MOVABLE if names[0] == "Movable" else BlockReason.KERNEL_ZONE
    rows = [memory[index]]
    for row in memory[index + 1 :]:
        if row[0] >= end:
            break
        rows.append(row)
    nids = {row[2] for row in rows}
    inside = [z for z in zones if z.start < end and z.end > start and z.nid in nids]
    whole = (rows[0][0] <= start and rows[0][1] >= end) or _present_bytes(rows, start, end) == end - start
    if not whole and policy.holes_on_first_node and _spans(zones, start, end):
        nids = nids | {_FIRST_NODE}
    single = len(nids) == 1 and len(inside) == 1
    zone = inside[0].zone if single else None
    if policy.block_zone is BlockZone.SAMPLED and not (single and whole):
        zone = _sampled(memory, zones, start, end)
    if zone is None:
        reason = BlockReason.SEVERAL_ZONES
    elif not whole:
        reason = BlockReason.HOLE
    elif zone != "Movable" or not single:  # a piece of another zone may lie between the samples
        reason = BlockReason.KERNEL_ZONE
    else:
        reason = BlockReason.MOVABLE
    return next(iter(nids)) if len(nids) == 1 else None, zone, reason


def _spans(zones: tuple[Zone, ...], start: int, end: int) -> bool:
    """Whether register_memory_blocks_under_node() walks a block for the first node."""
    own = [zone for zone in zones if zone.nid == _FIRST_NODE]
    return bool(own) and min(z.start for z in own) < end and max(z.end for z in own) > start


def _sampled(memory: list[Row], zones: tuple[Zone, ...], start: int, end: int) -> str | None:
    """test_pages_in_a_zone(): the zone of the pages at every 4 MiB, if it is one and spans them all."""
    found: Zone | None = None
    for address in range(start, end, _SAMPLE_STEP):
        zone = _page_zone(memory, zones, address)
        if found is not None and not (zone == found and found.start <= address < found.end):
            return None
        found = zone
    return found.zone if found is not None else None


def _page_zone(memory: list[Row], zones: tuple[Zone, ...], address: int) -> Zone | None:
    """The zone in a page's struct page, of two that overlap the one initialised last. Holes count to the RAM
    after them, or at the end to the last zone (init_unavailable_range())."""
    row = next((row for row in memory if row[1] > address), memory[-1])
    own = [zone for zone in zones if zone.nid == row[2]]
    spanning = [zone for zone in own if zone.start <= max(address, row[0]) < zone.end] or own[-1:]
    return next(iter(spanning if address < row[0] else reversed(spanning)), None)


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
