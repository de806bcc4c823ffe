"""memblock: regions with node and flags, and the boot-time allocator (mm/memblock.c, 6.1).

Rows are plain tuples (start, end, nid, flags) in bytes, half-open, sorted and merged as the kernel merges
them: neighbours join when node and flags are equal. `NO_NID` is a region without a node.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator

from acpitk.ranges import PAGE_SIZE, align_up

NO_NID = -1
HOTPLUG = 0x1
MIRROR = 0x2
RSRV_KERN = 0x20
FLAG_NAMES = {HOTPLUG: "hotplug", MIRROR: "mirror"}

Row = tuple[int, int, int, int]
INIT_REGIONS = 128
_REGION_BYTES = 24
_PHYS_MAX = (1 << 64) - 1


class Memblock:
    """memblock.memory, memblock.reserved and the allocator over them.

    Args:
        skips_hotplug: marked regions are passed over (movable_node is enabled).
        bottom_up: allocate from the lowest address.
        marks_kernel: allocations carry RSRV_KERN and the node they were asked for.
        current_limit: exclusive upper bound of allocations, bytes.
    """

    __slots__ = (
        "bottom_up",
        "current_limit",
        "log",
        "marks_kernel",
        "memory",
        "memory_max",
        "reserved",
        "reserved_max",
        "skips_hotplug",
    )

    def __init__(self, *, skips_hotplug: bool, bottom_up: bool, marks_kernel: bool) -> None:
        self.memory: list[Row] = []
        self.reserved: list[Row] = []
        self.memory_max = self.reserved_max = INIT_REGIONS
        self.skips_hotplug = skips_hotplug
        self.bottom_up = bottom_up
        self.marks_kernel = marks_kernel
        self.current_limit = _PHYS_MAX
        self.log: list[tuple[str, int, int, int]] = []

    def copy(self) -> Memblock:
        """An independent copy."""
        other = Memblock(
            skips_hotplug=self.skips_hotplug, bottom_up=self.bottom_up, marks_kernel=self.marks_kernel
        )
        other.memory, other.reserved = self.memory[:], self.reserved[:]
        other.memory_max, other.reserved_max = self.memory_max, self.reserved_max
        other.current_limit = self.current_limit
        other.log = self.log[:]
        return other

    def add(self, start: int, end: int) -> None:
        """memblock_add()."""
        self.memory = _add(self.memory, start, end)

    def reserve(self, start: int, end: int, nid: int = NO_NID, flags: int = 0) -> None:
        """memblock_reserve(): only the gaps between regions already there are filled."""
        rows = self.reserved
        if len(rows) * 2 + 1 >= self.reserved_max:
            while len(rows) + 1 + _overlapped(rows, start, end) > self.reserved_max and self._grow_reserved(
                start, end
            ):
                rows = self.reserved
        self.reserved = _add(self.reserved, start, end, nid, flags)

    def free(self, start: int, end: int) -> None:
        """memblock_phys_free()."""
        self.reserved = [
            part
            for row in self.reserved
            for part in (
                [row]
                if row[1] <= start or row[0] >= end
                else [
                    p
                    for p in ((row[0], min(row[1], start), *row[2:]), (max(row[0], end), row[1], *row[2:]))
                    if p[0] < p[1]
                ]
            )
        ]

    def set_memory_node(self, start: int, end: int, nid: int) -> None:
        """memblock_set_node() on memblock.memory."""
        self._isolate_room()
        self.memory = _change(self.memory, start, end, lambda row_nid, flags: (nid, flags))

    def set_reserved_node(self, start: int, end: int, nid: int) -> None:
        """memblock_set_node() on memblock.reserved."""
        if len(self.reserved) + 2 > self.reserved_max:
            self._grow_reserved(start, end)
        self.reserved = _change(self.reserved, start, end, lambda row_nid, flags: (nid, flags))

    def mark_hotplug(self, start: int, length: int) -> None:
        """memblock_mark_hotplug(): a length past the top of the address space is clamped, 0 marks nothing."""
        if not length:
            return
        self._isolate_room()
        end = min(start + length, _PHYS_MAX)
        self.memory = _change(self.memory, start, end, lambda nid, flags: (nid, flags | HOTPLUG))

    def clear_hotplug(self, start: int, end: int) -> None:
        """memblock_clear_hotplug()."""
        self._isolate_room()
        self.memory = _change(self.memory, start, end, lambda nid, flags: (nid, flags & ~HOTPLUG))

    def reset_nodes(self, *, keep_marks: bool) -> None:
        """What numa_init() does before an attempt: no nodes, no hotplug marks."""
        kept = ~0 if keep_marks else ~HOTPLUG
        if all(row[2] == NO_NID and row[3] & kept == row[3] for row in self.memory + self.reserved):
            return
        self.memory = _merged((s, e, NO_NID, f & kept) for s, e, _, f in self.memory)
        self.reserved = _merged((s, e, NO_NID, f) for s, e, _, f in self.reserved)

    def is_region_memory(self, start: int, end: int) -> bool:
        """memblock_is_region_memory(): one region holds all of [start, end)."""
        index = bisect_right(self.memory, start, key=lambda row: row[0]) - 1
        return index >= 0 and self.memory[index][1] >= end

    def overlaps_memory(self, start: int, end: int) -> bool:
        """memblock_overlaps_region(&memblock.memory, ...)."""
        return any(row[0] < end and row[1] > start for row in self.memory)

    def nid_of(self, address: int) -> int:
        """early_pfn_to_nid() of the page holding `address`; `NO_NID` outside RAM."""
        return next((row[2] for row in self.memory if row[0] <= address < row[1]), NO_NID)

    def find(self, size: int, align: int, start: int, end: int, nid: int) -> int:
        """memblock_find_in_range_node(); 0 where nothing fits. `end` 0 is the current limit."""
        end = min(end or self.current_limit, self.current_limit)
        start = max(start, PAGE_SIZE)
        end = max(start, end)
        if self.bottom_up:
            skip = HOTPLUG if self.skips_hotplug else 0
            for row in self.memory:
                if row[3] & skip or (nid != NO_NID and row[2] != nid):
                    continue
                for low, high in self._gaps(max(row[0], start), min(row[1], end)):
                    candidate = align_up(low, align)
                    if candidate < high and high - candidate >= size:
                        return candidate
            return 0
        return self._highest(size, align, start, end, nid)[0]

    def _highest(self, size: int, align: int, start: int, end: int, nid: int) -> tuple[int, int]:
        """__memblock_find_range_top_down(): the address, and where its free range begins; 0, 0 is none."""
        skip = HOTPLUG if self.skips_hotplug else 0
        reserved = self.reserved
        for row in reversed(self.memory):
            if row[3] & skip or (nid != NO_NID and row[2] != nid):
                continue
            low = row[0] if row[0] > start else start
            top = row[1] if row[1] < end else end
            index = bisect_left(reserved, (top,)) - 1
            while top > low:
                below, taken_to = reserved[index][:2] if index >= 0 else (0, 0)
                floor = taken_to if taken_to > low else low
                candidate = (top - size) & -align
                if top >= size and candidate >= floor:
                    return candidate, floor
                if taken_to <= low:
                    break
                if below < top:
                    top = below
                index -= 1
        return 0, 0

    def allocate_pieces(self, purpose: str, size: int, count: int, *, start: int, nid: int) -> int:
        """How many of `count` equal pieces, each aligned to its size, top-down allocations find.

        Pieces are taken one after the other on the node, then anywhere, then below `start`, too; those
        that follow each other downwards in one free range are logged as one.
        """
        taken = 0
        while taken < count:
            for low, wanted in ((start, nid), (start, NO_NID), (0, nid), (0, NO_NID)):
                at, floor = self._highest(size, size, max(low, PAGE_SIZE), self.current_limit, wanted)
                if at:
                    break
            else:
                break
            here = min(count - taken, 1 + (at - floor) // size)
            first = at - (here - 1) * size
            flags = RSRV_KERN if self.marks_kernel else 0
            self.reserve(first, at + size, wanted if self.marks_kernel else NO_NID, flags)
            self.log.append((purpose, first, at + size, nid))
            taken += here
        return taken

    def allocate(
        self,
        purpose: str,
        size: int,
        align: int,
        *,
        start: int = 0,
        end: int = 0,
        nid: int = NO_NID,
        exact: bool = False,
    ) -> int:
        """memblock_alloc_range_nid(): the node first, then any unless `exact`. 0 where nothing fits."""
        got = nid
        found = self.find(size, align, start, end, nid)
        if not found and nid != NO_NID and not exact:
            found, got = self.find(size, align, start, end, NO_NID), NO_NID
        if found:
            if self.marks_kernel:
                self.reserve(found, found + size, got, RSRV_KERN)
            else:
                self.reserve(found, found + size)
            self.log.append((purpose, found, found + size, nid))
        return found

    def allocate_retry(
        self, purpose: str, size: int, align: int, *, start: int = 0, nid: int = NO_NID, exact: bool = False
    ) -> int:
        """memblock_alloc_internal(): once more without the lower bound."""
        found = self.allocate(purpose, size, align, start=start, nid=nid, exact=exact)
        if not found and start:
            found = self.allocate(purpose, size, align, nid=nid, exact=exact)
        return found

    def _gaps(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Unreserved parts of [low, high), ascending."""
        if low >= high:
            return
        index = bisect_right(self.reserved, low, key=lambda row: row[1])
        for start, end, _, _ in self.reserved[index:]:
            if start >= high:
                break
            if start > low:
                yield low, start
            low = max(low, end)
        if low < high:
            yield low, high

    def _isolate_room(self) -> None:
        """memblock_isolate_range() wants room for two more regions in memblock.memory."""
        if len(self.memory) + 2 > self.memory_max:
            size = align_up(self.memory_max * 2 * _REGION_BYTES, PAGE_SIZE)
            at = self.find(size, PAGE_SIZE, 0, 0, NO_NID)
            if at:
                self.memory_max *= 2
                self.reserve(at, at + size)
                self.log.append(("memblock.memory array", at, at + size, NO_NID))

    def _grow_reserved(self, start: int, end: int) -> bool:
        """memblock_double_array() for memblock.reserved: above the new area first, then below it."""
        size = align_up(self.reserved_max * 2 * _REGION_BYTES, PAGE_SIZE)
        at = self.find(size, PAGE_SIZE, end, 0, NO_NID) or self.find(size, PAGE_SIZE, 0, start, NO_NID)
        if not at:
            return False
        self.reserved_max *= 2
        self.reserved = _add(self.reserved, at, at + size)
        self.log.append(("memblock.reserved array", at, at + size, NO_NID))
        return True


def _merged(rows: Iterator[Row] | list[Row]) -> list[Row]:
    out: list[Row] = []
    for row in rows:
        if out and out[-1][1] == row[0] and out[-1][2:] == row[2:]:
            out[-1] = (out[-1][0], row[1], *row[2:])
        else:
            out.append(row)
    return out


def _overlapped(rows: list[Row], start: int, end: int) -> int:
    return sum(1 for row in rows if row[0] < end and row[1] > start)


def _add(rows: list[Row], start: int, end: int, nid: int = NO_NID, flags: int = 0) -> list[Row]:
    """memblock_add_range(): fill what no region covers."""
    if start >= end:
        return rows
    index = bisect_left(rows, (start,))
    clear_below = index == 0 or rows[index - 1][1] <= start
    if clear_below and (index == len(rows) or rows[index][0] >= end):
        first = max(index - 1, 0)
        nearby = [*rows[first:index], (start, end, nid, flags), *rows[index : index + 1]]
        return [*rows[:first], *_merged(nearby), *rows[index + 1 :]]
    new: list[Row] = []
    at = start
    for row in rows:
        if row[1] <= at or row[0] >= end:
            continue
        if row[0] > at:
            new.append((at, row[0], nid, flags))
        at = row[1]
    if at < end:
        new.append((at, end, nid, flags))
    return _merged(sorted(rows + new)) if new else rows


def _change(
    rows: list[Row], start: int, end: int, change: Callable[[int, int], tuple[int, int]]
) -> list[Row]:
    """Isolate [start, end), change node and flags of what lies inside, merge."""
    out: list[Row] = []
    for row in rows:
        low, high, nid, flags = row
        if high <= start or low >= end:
            parts = [row]
        else:
            inner = (max(low, start), min(high, end), *change(nid, flags))
            parts = [inner]
            if low < start:
                parts.insert(0, (low, start, nid, flags))
            if high > end:
                parts.append((end, high, nid, flags))
        for part in parts:
            if out and out[-1][1] == part[0] and out[-1][2] == part[2] and out[-1][3] == part[3]:
                out[-1] = (out[-1][0], part[1], part[2], part[3])
            else:
                out.append(part)
    return out
