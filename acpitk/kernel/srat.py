"""The SRAT and SLIT as Linux reads them: by trusting lengths, with its own leniency.

Kept apart from acpitk.tables on purpose: the specification's reader must not explain what the kernel does.
Sources (6.1): acpi_parse_entries_array() in drivers/acpi/tables.c, acpi_numa_init() and its handlers in
drivers/acpi/numa/srat.c, acpi_numa_processor_affinity_init() in arch/x86/mm/srat.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from acpitk.kernel.memblock import KernelPanicError, Memblock
from acpitk.kernel.policy import HotplugMarks, KernelBuild, KernelPolicy
from acpitk.kernel.prediction import EntryUse, EntryVerdict
from acpitk.outcome import NumaReason
from acpitk.ranges import PAGE_SIZE

_MEMORY = struct.Struct("<BBIHQQIIQ")
_X2APIC = struct.Struct("<BBHIII")
_MASK64 = (1 << 64) - 1
_FIXED_SRAT = 48
_MAX_MAPPING = 256 << 10
"""Bytes early_memremap() maps at most (NR_FIX_BTMAPS 64 pages, mm/early_ioremap.c)."""
_ENABLED, _HOT_PLUGGABLE = 1, 2
LOCAL_DISTANCE, REMOTE_DISTANCE = 10, 20
_SLIT_COUNT = struct.Struct("<Q")
_SLIT_ENTRIES = 44
_SIGN = 1 << 63
_FIXMAP = 0xFFFFFFFFFF200000
"""About where early_memremap() maps tables (arch/x86/include/asm/fixmap.h, FIX_BTMAP)."""
_CANONICAL_HALF = 1 << 47
_SLIT_ENDLESS = 1 << 31
"""Localities from which acpi_numa_slit_init()'s int counters overflow before they reach the count."""


NULL_POINTER = "BUG: kernel NULL pointer dereference"


@dataclass(slots=True)
class Blk:
    """struct numa_memblk."""

    start: int
    end: int
    nid: int


@dataclass(slots=True)
class Numa:
    """The kernel's NUMA state while one configuration is tried; the PXM map survives attempts."""

    policy: KernelPolicy
    build: KernelBuild
    numa_off: bool
    srat_disabled: bool
    bad: bool = False
    pxm_to_node: dict[int, int] = field(default_factory=dict)
    nodes_parsed: set[int] = field(default_factory=set)
    cpu_nodes: dict[int, int] = field(default_factory=dict)
    meminfo: list[Blk] = field(default_factory=list)
    distance_at: int = 0
    distance_count: int = 0
    distance_failed: bool = False
    distances: bytearray = field(default_factory=bytearray)
    entries: list[EntryVerdict] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def map_pxm(self, pxm: int) -> int | None:
        """acpi_map_pxm_to_node(): known node, the lowest free one, or None."""
        if pxm >= self.build.max_pxm_domains or self.numa_off:
            return None
        nid = self.pxm_to_node.get(pxm)
        if nid is None:
            nid = len(self.pxm_to_node)
            if nid >= self.build.max_numnodes:
                return None
            self.pxm_to_node[pxm] = nid
        return nid

    def bad_srat(self) -> None:
        """bad_srat()."""
        self.messages.append("SRAT: SRAT not used.")
        self.srat_disabled = self.bad = True


def parse_srat(numa: Numa, mb: Memblock, table: bytes, following: bytes) -> NumaReason | None:
    """Both passes over the SRAT; the reason it is refused, None where entries were accepted.

    Args:
        table: the table; its header length field rules, not its size.
        following: the bytes behind it in memory.

    Raises:
        KernelPanicError: an entry reaches past the mapped pages.
    """
    length = int.from_bytes((table[:8] + following[:8])[4:8], "little")
    if length == 0 or length > _MAX_MAPPING:
        return NumaReason.NO_SRAT
    data = (table + following).ljust(max(length, len(table)) + PAGE_SIZE, b"\0")
    revision = data[8]
    _affinity_pass(numa, data, length, revision)
    accepted = 0
    zero_length = False
    at = _FIXED_SRAT
    while at + 2 < length:
        size = data[at + 1]
        if data[at] == 1:
            accepted += _memory_affinity(numa, mb, data, at, revision)
        if size == 0:
            numa.messages.append("[SRAT:0x01] Invalid zero length")
            zero_length = True
            break
        at += size
    if numa.bad:
        return NumaReason.BAD_SRAT
    if zero_length:
        return NumaReason.ZERO_LENGTH
    return None if accepted else NumaReason.NO_MEMORY_AFFINITY


def hot_ranges(table: bytes, following: bytes) -> tuple[tuple[int, int], ...]:
    """(base, length) of every entry with the Hot Pluggable flag, as the 2013 proposal walked them.

    Only that flag is tested: disabled and short entries count. A zero length ends the walk.
    """
    length = int.from_bytes(table[4:8], "little")
    data = (table + following).ljust(min(max(length, len(table)), _MAX_MAPPING) + PAGE_SIZE, b"\0")
    found = []
    at = _FIXED_SRAT
    while at + 2 < min(length, _MAX_MAPPING) and data[at + 1]:
        if data[at] == 1 and data[at + 28] & _HOT_PLUGGABLE:
            entry = _MEMORY.unpack_from(data, at)
            found.append((entry[4], entry[5]))
        at += data[at + 1]
    return tuple(found)


def _affinity_pass(numa: Numa, data: bytes, length: int, revision: int) -> None:
    """Pass A: processors and generic initiators in table order; a failing handler ends the calls."""
    at = _FIXED_SRAT
    while at + 2 < length:
        kind, size = data[at], data[at + 1]
        if kind == 0:
            _processor(numa, data, at, revision)
        elif kind == 2:
            _x2apic(numa, data, at)
        elif kind == 5 and not _generic_initiator(numa, data, at):
            _zero_length_check(numa, data, at, length)
            return
        if size == 0:
            numa.messages.append("[SRAT:0x00] Invalid zero length")
            return
        at += size


def _zero_length_check(numa: Numa, data: bytes, at: int, length: int) -> None:
    """The walk goes on without handlers (6.1); only a zero length is still noticed."""
    while at + 2 < length:
        if data[at + 1] == 0:
            numa.messages.append("[SRAT:0x00] Invalid zero length")
            return
        at += data[at + 1]


def _processor(numa: Numa, data: bytes, at: int, revision: int) -> None:
    if numa.srat_disabled:
        return
    if data[at + 1] != 16:
        numa.bad_srat()
        return
    if not data[at + 4] & _ENABLED:
        return
    pxm = data[at + 2]
    if revision >= 2:
        pxm |= int.from_bytes(data[at + 9 : at + 12], "little") << 8
    _cpu_node(numa, pxm, data[at + 3])


def _x2apic(numa: Numa, data: bytes, at: int) -> None:
    if numa.srat_disabled:
        return
    _, size, _, pxm, apic_id, flags = _X2APIC.unpack_from(data, at)
    if size < 24:
        numa.bad_srat()
        return
    if not flags & _ENABLED:
        return
    if apic_id >= numa.build.flat_apic_limit:
        numa.messages.append(f"SRAT: PXM {pxm} -> X2APIC 0x{apic_id:04x} ignored")
        return
    _cpu_node(numa, pxm, apic_id)


def _cpu_node(numa: Numa, pxm: int, apic_id: int) -> None:
    nid = numa.map_pxm(pxm)
    if nid is None:
        numa.messages.append(f"SRAT: Too many proximity domains {pxm:x}")
        numa.bad_srat()
    else:
        numa.cpu_nodes[apic_id] = nid
        numa.nodes_parsed.add(nid)


def _generic_initiator(numa: Numa, data: bytes, at: int) -> bool:
    if not data[at + 24] & _ENABLED:
        return False
    nid = numa.map_pxm(int.from_bytes(data[at + 4 : at + 8], "little"))
    if nid is None:
        numa.messages.append("SRAT: Too many proximity domains.")
        return False
    numa.nodes_parsed.add(nid)
    return True


def _memory_affinity(numa: Numa, mb: Memblock, data: bytes, at: int, revision: int) -> bool:
    """acpi_numa_memory_affinity_init(): whether the entry counts as accepted."""
    entry = _MEMORY.unpack_from(data, at)
    firmware_pxm, base, length = entry[2], entry[4], entry[5]
    size, flags = entry[1], entry[7]
    hotplug = bool(flags & _HOT_PLUGGABLE)
    pxm = firmware_pxm & 0xFF if revision <= 1 and numa.policy.revision_1_masks_pxm else firmware_pxm
    nid = None
    if numa.srat_disabled:
        use = EntryUse.SKIPPED
    elif size < _MEMORY.size:
        numa.messages.append(f"SRAT: Unexpected header length: {size}")
        numa.bad_srat()
        use = EntryUse.REJECTED
    elif not flags & _ENABLED:
        use = EntryUse.DISABLED
    elif (nid := numa.map_pxm(pxm)) is None:
        numa.messages.append("SRAT: Too many proximity domains.")
        numa.bad_srat()
        use = EntryUse.REJECTED
    else:
        use = _add_memblk(numa, mb, base, base + length & _MASK64, nid)
    numa.entries.append(EntryVerdict(at, base, length, pxm, firmware_pxm, nid, hotplug, use))
    if nid is None or use is EntryUse.REJECTED:
        return False
    numa.nodes_parsed.add(nid)
    if hotplug and numa.policy.regions_have_flags and numa.policy.hotplug_marks is HotplugMarks.SRAT_HANDLER:
        mb.mark_hotplug(base, length)
    return True


def _add_memblk(numa: Numa, mb: Memblock, base: int, end: int, nid: int) -> EntryUse:
    """numa_add_memblk()."""
    if base == end:
        return EntryUse.EMPTY
    if base > end:
        numa.messages.append(
            f"Warning: invalid memblk node {nid} [mem {base:#010x}-{end - 1 & _MASK64:#010x}]"
        )
        return EntryUse.WRAPPED
    if len(numa.meminfo) >= numa.build.max_memblks:
        numa.messages.append("too many memblk ranges")
        numa.bad_srat()
        return EntryUse.REJECTED
    numa.meminfo.append(Blk(base, end, nid))
    return EntryUse.ACCEPTED if mb.overlaps_memory(base, end) else EntryUse.NOT_RAM


def parse_slit(
    numa: Numa, mb: Memblock, table: bytes, preceding: bytes, following: bytes, end_of_memory: int
) -> None:
    """acpi_parse_slit(): check, then set the distances of mapped domains.

    Args:
        preceding, following: the bytes before and behind the table in memory.
        end_of_memory: PFN_PHYS(max_pfn_mapped), where the distance table may end.

    Raises:
        KernelPanicError: the locality count makes the kernel read where nothing is mapped.
    """
    length = int.from_bytes((table[:8] + following[:8])[4:8], "little")
    if length == 0 or length > _MAX_MAPPING:
        return
    data = (table + following).ljust(_MAX_MAPPING, b"\0")
    count = _SLIT_COUNT.unpack_from(data, 36)[0]
    side = (count & 0xFFFFFFFF) - ((count & 0x80000000) << 1)
    if not _slit_valid(data, side):
        numa.messages.append("SLIT table looks invalid. Not used.")
        return
    if count >= _SLIT_ENDLESS:
        numa.messages.append(f"acpi_numa_slit_init: {count:#x} localities to go through")
    mapped = sorted((pxm, nid) for pxm, nid in numa.pxm_to_node.items() if pxm < count)
    for pxm, nid in mapped:
        for other_pxm, other_nid in mapped:
            distance = _slit_entry(data, preceding, count * pxm + other_pxm)
            set_distance(numa, mb, nid, other_nid, distance, end_of_memory)


def _slit_entry(data: bytes, preceding: bytes, index: int) -> int:
    """`slit->entry[index]` with the kernel's 64-bit arithmetic, which may leave the table."""
    at = _SLIT_ENTRIES + index
    if at < len(data):
        return data[at]
    at = (at + _SIGN & _MASK64) - _SIGN
    if -len(preceding) <= at < 0:
        return preceding[at]
    if 0 <= at < len(data):
        return data[at]
    address = _FIXMAP + at & _MASK64
    if _CANONICAL_HALF <= address < (1 << 64) - _CANONICAL_HALF:
        raise KernelPanicError("PANIC: early exception 0x0d")
    raise KernelPanicError("BUG: unable to handle page fault in acpi_numa_slit_init")


def _slit_valid(data: bytes, side: int) -> bool:
    at = _SLIT_ENTRIES
    for row in range(max(side, 0)):
        if at + side > len(data):
            return False
        line = data[at : at + side]
        if line[row] != LOCAL_DISTANCE or line.count(LOCAL_DISTANCE) > 1 or min(line) < LOCAL_DISTANCE:
            return False
        at += side
    return True


def set_distance(numa: Numa, mb: Memblock, row: int, column: int, distance: int, end: int) -> bool:
    """numa_set_distance(); False where the table could not be allocated."""
    if numa.distance_failed:
        return False
    if not numa.distance_at and not _allocate_distances(numa, mb, end):
        return False
    beyond = row >= numa.distance_count or column >= numa.distance_count
    if beyond or (row == column and distance != LOCAL_DISTANCE):
        return True
    numa.distances[row * numa.distance_count + column] = distance
    return True


def _allocate_distances(numa: Numa, mb: Memblock, end: int) -> bool:
    """numa_alloc_distance()."""
    count = 1 + max(numa.nodes_parsed | {blk.nid for blk in numa.meminfo}, default=-1)
    count = max(count, 1)
    numa.distance_at = mb.allocate("distance table", count * count, PAGE_SIZE, end=end)
    if not numa.distance_at:
        numa.messages.append("Warning: can't allocate distance table!")
        numa.distance_failed = True
        return False
    numa.distance_count = count
    numa.distances = bytearray([REMOTE_DISTANCE]) * count**2
    for at in range(0, count**2, count + 1):
        numa.distances[at] = LOCAL_DISTANCE
    return True
