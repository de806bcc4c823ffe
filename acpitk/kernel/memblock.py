"""memblock: regions with node and flags, and the boot-time allocator (mm/memblock.c, 6.1).

Rows are plain tuples (start, end, nid, flags) in bytes, half-open, sorted and merged as the kernel merges
them: neighbours join when node and flags are equal. `NO_NID` is a region without a node.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from acpitk.ranges import PAGE_SIZE, align_up

NO_NID = -1
MAX_NID = -2
"""Also a region without a node: MAX_NUMNODES, which does not join with NUMA_NO_NODE."""
HOTPLUG = 0x1
MIRROR = 0x2
RSRV_KERN = 0x20
MEMORY_ARRAY, RESERVED_ARRAY = REGION_ARRAYS = "memblock.memory array", "memblock.reserved array"
"""What the allocator calls the arrays it takes for its own regions."""
ARRAYS_OVERLAP = "memblock.memory array and memblock.reserved array overlap"
"""What the kernel does then follows from stray writes: the model ends there."""
_NO_ROOM = "kernel BUG at mm/memblock.c:501!"
"""The line is 6.12's; lines are not compared."""
FLAG_NAMES = {HOTPLUG: "hotplug", MIRROR: "mirror"}

Row = tuple[int, int, int, int]
INIT_REGIONS = 128
_REGION_BYTES = 24
_PHYS_MAX = (1 << 64) - 1


class KernelPanicError(Exception):
    """The modelled kernel dies here."""


class Memblock:
    """memblock.memory, memblock.reserved and the allocator over them.

    Args:
        skips_hotplug: marked regions are passed over (movable_node is enabled).
        bottom_up: allocate from the lowest address.
        marks_kernel: allocations carry RSRV_KERN and the node they were asked for.
        no_nid: the node of what is reserved without one.
        current_limit: exclusive upper bound of allocations, bytes.
    """

    __slots__ = (
        "arrays",
        "bottom_up",
        "current_limit",
        "log",
        "marks_kernel",
        "memory",
        "memory_max",
        "no_nid",
        "reserved",
        "reserved_max",
        "skips_hotplug",
    )

    def __init__(
        self, *, skips_hotplug: bool, bottom_up: bool, marks_kernel: bool, no_nid: int = NO_NID
    ) -> None:
        self.memory: list[Row] = []
        self.reserved: list[Row] = []
        self.memory_max = self.reserved_max = INIT_REGIONS
        self.skips_hotplug = skips_hotplug
        self.bottom_up = bottom_up
        self.marks_kernel = marks_kernel
        self.no_nid = no_nid
        self.current_limit = _PHYS_MAX
        self.arrays: dict[str, tuple[int, int]] = {}
        self.log: list[tuple[str, int, int, int]] = []

    def copy(self) -> Memblock:
        """An independent copy."""
        other = Memblock(
            skips_hotplug=self.skips_hotplug,
            bottom_up=self.bottom_up,
            marks_kernel=self.marks_kernel,
            no_nid=self.no_nid,
        )
        other.memory, other.reserved = self.memory[:], self.reserved[:]
        other.memory_max, other.reserved_max = self.memory_max, self.reserved_max
        other.current_limit = self.current_limit
        other.arrays = self.arrays.copy()
        other.log = self.log[:]
        return other

    def add(self, start: int, end: int) -> None:
        """memblock_add()."""
        _add(self.memory, start, end)

    def reserve(self, start: int, end: int, nid: int = NO_NID, flags: int = 0) -> bool:
        """memblock_reserve(): gaps between regions already there are filled; False without room for that."""
        rows = self.reserved
        if len(rows) * 2 + 1 >= self.reserved_max:
            gaps = sum(1 for _ in self._gaps(start, end))
            while len(rows) + gaps > self.reserved_max:
                if not self._grow_reserved(start, end):
                    return False
        _add(rows, start, end, self.no_nid if nid == NO_NID else nid, flags)
        return True

    def free(self, start: int, end: int) -> None:
        """memblock_phys_free(), which needs room to split a region even where it splits none."""
        if start >= end or not self._isolate_reserved_room(start, end):
            return
        self.reserved[:] = [
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
        if self._isolate_room():
            _change(self.memory, start, end, nid=nid)

    def set_reserved_node(self, start: int, end: int, nid: int) -> None:
        """memblock_set_node() on memblock.reserved."""
        if self._isolate_reserved_room(start, end):
            _change(self.reserved, start, end, nid=nid)

    def mark_hotplug(self, start: int, length: int) -> None:
        """memblock_mark_hotplug(): a length past the top of the address space is clamped, 0 marks nothing."""
        if length and self._isolate_room():
            _change(self.memory, start, min(start + length, _PHYS_MAX), mark=HOTPLUG)

    def clear_hotplug(self, start: int, end: int) -> None:
        """memblock_clear_hotplug()."""
        if self._isolate_room():
            _change(self.memory, start, end, clear=HOTPLUG)

    def reset_nodes(self, *, keep_marks: bool) -> None:
        """What numa_init() does before an attempt: no nodes, no hotplug marks."""
        if self._isolate_room():
            self.memory = _without_nodes(self.memory)
        if self._isolate_reserved_room(0, _PHYS_MAX):
            self.reserved = _without_nodes(self.reserved)
        if not keep_marks and self._isolate_room():
            for _, _, _, flags in self.memory:
                if flags & HOTPLUG:
                    self.memory = _merged([(s, e, nid, f & ~HOTPLUG) for s, e, nid, f in self.memory])
                    break

    def is_region_memory(self, start: int, end: int) -> bool:
        """memblock_is_region_memory(): one region holds all of [start, end)."""
        index = bisect_left(self.memory, (start + 1,)) - 1
        return index >= 0 and self.memory[index][1] >= end

    def overlaps_memory(self, start: int, end: int) -> bool:
        """memblock_overlaps_region(&memblock.memory, ...)."""
        index = bisect_left(self.memory, (end,)) - 1
        return index >= 0 and self.memory[index][1] > start

    def nid_of(self, address: int) -> int:
        """early_pfn_to_nid() of the page holding `address`; `NO_NID` outside RAM."""
        index = bisect_left(self.memory, (address + 1,)) - 1
        if index < 0:
            return NO_NID
        _, end, nid, _ = self.memory[index]
        return nid if address < end else NO_NID

    def find(self, size: int, align: int, start: int, end: int, nid: int) -> int:
        """memblock_find_in_range_node(); 0 where nothing fits. `end` 0 is the current limit."""
        if not end or end > self.current_limit:
            end = self.current_limit
        if start < PAGE_SIZE:
            start = PAGE_SIZE
        if end < start:
            end = start
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
        for low, top, row_nid, flags in reversed(self.memory):
            if flags & skip or (nid != NO_NID and row_nid != nid):
                continue
            if low < start:
                low = start
            if top > end:
                top = end
            index = bisect_left(reserved, (top,)) - 1
            while top - low >= size:
                below, taken_to = 0, 0
                if index >= 0:
                    below, taken_to, _, _ = reserved[index]
                floor = taken_to if taken_to > low else low
                candidate = (top - size) & -align
                if candidate >= floor:
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
                here = min(count - taken, 1 + (at - floor) // size)
                first = at - (here - 1) * size
                if at and self._take(first, at + size, wanted):
                    break
            else:
                break
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
        for wanted in (nid,) if nid == NO_NID or exact else (nid, NO_NID):
            found = self.find(size, align, start, end, wanted)
            if found and self._take(found, found + size, wanted):
                self.log.append((purpose, found, found + size, nid))
                return found
        return 0

    def _take(self, start: int, end: int, nid: int) -> bool:
        """Reserve what was found for an allocation on `nid`."""
        if self.marks_kernel:
            return self.reserve(start, end, nid, RSRV_KERN)
        return self.reserve(start, end)

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

    def _isolate_room(self) -> bool:
        """memblock_isolate_range() wants room for two more regions in memblock.memory, or does nothing."""
        if len(self.memory) + 2 > self.memory_max:
            size = align_up(self.memory_max * 2 * _REGION_BYTES, PAGE_SIZE)
            at = self.find(size, PAGE_SIZE, 0, 0, NO_NID)
            if not at:
                return False
            self.memory_max *= 2
            self._move(MEMORY_ARRAY, at, at + size)
        return True

    def _isolate_reserved_room(self, start: int, end: int) -> bool:
        """The same in memblock.reserved."""
        return len(self.reserved) + 2 <= self.reserved_max or self._grow_reserved(start, end)

    def _grow_reserved(self, start: int, end: int) -> bool:
        """memblock_double_array() for memblock.reserved: above the new area first, then below it."""
        size = align_up(self.reserved_max * 2 * _REGION_BYTES, PAGE_SIZE)
        at = self.find(size, PAGE_SIZE, end, 0, NO_NID) or self.find(size, PAGE_SIZE, 0, start, NO_NID)
        if not at:
            return False
        self.reserved_max *= 2
        self._move(RESERVED_ARRAY, at, at + size)
        return True

    def _move(self, array: str, start: int, end: int) -> None:
        """The end of memblock_double_array(): the array taken before is freed, the new one reserved.

        Raises:
            KernelPanicError: memblock.reserved is full, or freeing made it grow into the new array, which is
                not reserved yet.
        """
        if array in self.arrays:
            self.free(*self.arrays[array])
        self.arrays[array] = start, end
        low, high = self.arrays.get(RESERVED_ARRAY, (0, 0))
        if array == MEMORY_ARRAY and low < end and high > start:
            raise KernelPanicError(ARRAYS_OVERLAP)
        if not self.reserve(start, end, flags=RSRV_KERN if self.marks_kernel else 0):
            raise KernelPanicError(_NO_ROOM)
        self.log.append((array, start, end, NO_NID))


def _merged(rows: list[Row]) -> list[Row]:
    """memblock_merge_regions(): neighbours of one node with the same flags become one."""
    out: list[Row] = []
    for row in rows:
        start, end, nid, flags = row
        if out:
            last = out[-1]
            if last[1] == start and last[2] == nid and last[3] == flags:
                out[-1] = (last[0], end, nid, flags)
                continue
        out.append(row)
    return out


def _without_nodes(rows: list[Row]) -> list[Row]:
    for _, _, nid, _ in rows:
        if nid != NO_NID:
            return _merged([(start, end, NO_NID, flags) for start, end, _, flags in rows])
    return rows


def _add(rows: list[Row], start: int, end: int, nid: int = NO_NID, flags: int = 0) -> None:
    """memblock_add_range(): fill, in place, what no region covers."""
    if start >= end:
        return
    index = bisect_left(rows, (start,))
    if (index == 0 or rows[index - 1][1] <= start) and (index == len(rows) or rows[index][0] >= end):
        _insert(rows, index, start, end, nid, flags)
        return
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
    if new:
        rows[:] = _merged(sorted(rows + new))


def _insert(rows: list[Row], index: int, start: int, end: int, nid: int, flags: int) -> None:
    """Put a region that overlaps none in its place, joined with what it touches."""
    if index < len(rows):
        low, high, next_nid, next_flags = rows[index]
        if low == end and next_nid == nid and next_flags == flags:
            end = high
            del rows[index]
    if index:
        low, high, last_nid, last_flags = rows[index - 1]
        if high == start and last_nid == nid and last_flags == flags:
            rows[index - 1] = (low, end, nid, flags)
            return
    rows.insert(index, (start, end, nid, flags))


def _change(
    rows: list[Row], start: int, end: int, *, nid: int | None = None, mark: int = 0, clear: int = 0
) -> None:
    """Isolate [start, end), change node (None: none) and flags of what lies inside, merge, in place."""
    last = bisect_left(rows, (end,))
    first = last
    while first and rows[first - 1][1] > start:
        first -= 1
    if first == last:
        return
    before = first - 1 if first else 0
    out = rows[before:first]
    for low, high, row_nid, flags in rows[first:last]:
        if low < start:
            out.append((low, start, row_nid, flags))
            low = start
        top = high if high < end else end
        out.append((low, top, row_nid if nid is None else nid, (flags | mark) & ~clear))
        if top < high:
            out.append((top, high, row_nid, flags))
    out += rows[last : last + 1]
    rows[before : last + 1] = _merged(out)
