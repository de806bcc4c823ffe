"""setup_arch() up to the SRAT: the RAM memblock knows, and everything already reserved, with owners.

Sources (6.1): setup_arch() and early_reserve_memory() in arch/x86/kernel/setup.c, e820__memblock_setup()
and parse_memopt() in arch/x86/kernel/e820.c, init_mem_mapping() in arch/x86/mm/init.c,
reserve_real_mode() in arch/x86/realmode/init.c, acpi_reserve_initial_tables() in drivers/acpi/tables.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, takewhile

from acpitk.kernel.cmdline import CommandLine, parse_cmdline
from acpitk.kernel.memblock import MAX_NID, NO_NID, REGION_ARRAYS, RSRV_KERN, Memblock
from acpitk.kernel.policy import KernelBuild, KernelExemption, KernelPolicy
from acpitk.machine import (
    ACPI_TABLES,
    INITRD,
    KERNEL_IMAGE,
    Q35,
    Case,
    E820Entry,
    E820Type,
    Machine,
    Reserved,
    madt_at,
    madt_first,
)
from acpitk.ranges import GIB, KIB, MIB, PAGE_SHIFT, PAGE_SIZE, align_down, align_up

LOW_MEMORY = "low memory"
PAGE_TABLES = "page tables"
_PMD_SIZE = 2 * MIB
_PGD_SIZE = 512 * GIB
_BIOS_BEGIN, _BIOS_END = 640 * KIB, MIB
_LOW_RESERVE = 64 * KIB

_TYPE_RANK = {
    E820Type.USABLE: 1,
    E820Type.RESERVED: 2,
    E820Type.ACPI_DATA: 3,
    E820Type.ACPI_NVS: 4,
    E820Type.UNUSABLE: 5,
    E820Type.PERSISTENT: 7,
    E820Type.SOFT_RESERVED: 8,
}
"""Where entries overlap, the higher type wins (e820__update_table)."""


@dataclass(slots=True, kw_only=True)
class EarlyState:
    """memblock just before the SRAT is parsed.

    Args:
        memblock: as it stands then.
        max_pfn: end of RAM in the e820 map, pages.
        owners: what memblock.reserved holds, one entry per reservation, with owners.
        failed: the kernel cannot get this far; why.
    """

    memblock: Memblock
    max_pfn: int
    owners: tuple[Reserved, ...]
    failed: str | None = None


def early_state(
    case: Case,
    machine: Machine,
    options: CommandLine,
    policy: KernelPolicy,
    build: KernelBuild,
    hot_ranges: tuple[tuple[int, int], ...] = (),
) -> EarlyState:
    """Replay setup_arch() up to initmem_init(); the state is the caller's to change.

    Args:
        machine: the memory map of `case`.
        hot_ranges: (base, length) of hotpluggable entries, where the policy marks them this early.
    """
    state = _before_acpi(case.machine, case.cmdline, policy, build, hot_ranges)
    mb = state.memblock.copy()
    owners = state.owners
    if machine.reserved is None and not options.acpi_off:
        tables = _acpi_tables(case, machine)
        for row in tables:
            mb.reserve(row.start, row.end)
        owners = (*owners, *tables)
    return EarlyState(memblock=mb, max_pfn=state.max_pfn, owners=owners, failed=state.failed)


def _acpi_tables(case: Case, machine: Machine) -> list[Reserved]:
    """acpi_reserve_initial_tables(): what each table says its length is, up to the first that says 0."""
    placed = [row for row in machine.placed if row.owner == ACPI_TABLES]
    if isinstance(case.machine, Machine) or all(
        int.from_bytes(table[4:8], "little") == len(table) >= 8 for table in case.tables
    ):
        return placed
    (area,) = placed
    memory = b"".join(case.tables) + machine.after_tables
    first = area.end - sum(map(len, case.tables))
    starts = list(accumulate(map(len, case.tables[:-1]), initial=0))
    lengths = [int.from_bytes(memory[at + 4 : at + 8], "little") for at in starts]
    listed = [(area.start, first - area.start)]
    listed += [(first + at, length) for at, length in zip(starts, lengths, strict=True)]
    madt_first(listed, len(case.tables), madt_at(case.tables))
    return [
        Reserved(start, start + length, ACPI_TABLES)
        for start, length in takewhile(lambda table: table[1], listed)
    ]


@lru_cache(maxsize=2048)
def _before_acpi(
    guest: Q35 | Machine,
    cmdline: str,
    policy: KernelPolicy,
    build: KernelBuild,
    hot_ranges: tuple[tuple[int, int], ...],
) -> EarlyState:
    """setup_arch() up to acpi_boot_table_init(): what no table has a say in, so most cases share it."""
    machine = guest.resolve(()) if isinstance(guest, Q35) else guest
    options = parse_cmdline(cmdline)
    e820 = _ram_map(machine.e820, options, build)
    mapped = max((end for _, end, kind in e820 if kind is E820Type.USABLE), default=0) >> PAGE_SHIFT
    acpi = (end >> PAGE_SHIFT for _, end, kind in e820 if kind is E820Type.ACPI_DATA)
    max_pfn = max([mapped, *acpi]) if policy.max_pfn_counts_acpi else mapped
    hotplug_given = options.given(policy.hotplug_option)
    mb = Memblock(
        skips_hotplug=hotplug_given and policy.allocator_skips_hotplug,
        bottom_up=hotplug_given and policy.bottom_up_until_srat,
        marks_kernel=policy.kernel_reserves_marked,
        no_nid=MAX_NID if policy.late_reserves_apart else NO_NID,
    )
    for start, end, kind in e820:
        if kind is E820Type.USABLE:
            mb.add(start, end)
    mb.memory = [
        (start, end, nid, flags)
        for low, high, nid, flags in mb.memory
        if (start := align_up(low, PAGE_SIZE)) < (end := align_down(high, PAGE_SIZE))
    ]
    if machine.reserved is not None:
        for row in machine.reserved:
            mb.reserve(row.start, row.end)
        _mark_early(mb, hot_ranges, policy)
        return EarlyState(memblock=mb, max_pfn=max_pfn, owners=machine.reserved)

    owners = _reserve_first(mb, machine, policy, build)
    for start, end, kind in e820:
        if kind is E820Type.SOFT_RESERVED:
            mb.reserve(start, end)
            owners.append(Reserved(start, end, str(kind)))
    _reserve_low(mb, options, policy, build)
    owners += [Reserved(r[0], min(r[1], MIB), LOW_MEMORY) for r in mb.reserved if r[0] < MIB]
    _mark_early(mb, hot_ranges, policy)
    pages = _direct_map(mb, max_pfn, build)
    if pages is None:
        return EarlyState(
            memblock=mb, max_pfn=max_pfn, owners=(), failed="alloc_low_pages: can not alloc memory"
        )
    owners += [Reserved(page, page + PAGE_SIZE, PAGE_TABLES) for page in pages]
    mb.current_limit = mapped << PAGE_SHIFT
    owners = _relocate_initrd(mb, owners)
    owners += [Reserved(start, end, what) for what, start, end, _ in mb.log if what in REGION_ARRAYS]
    mb.log.clear()
    return EarlyState(memblock=mb, max_pfn=max_pfn, owners=tuple(owners))


def _reserve_first(
    mb: Memblock, machine: Machine, policy: KernelPolicy, build: KernelBuild
) -> list[Reserved]:
    """early_reserve_memory(), reserve_brk() and what firmware placed, ACPI tables aside."""
    kernel = RSRV_KERN if policy.kernel_reserves_marked else 0
    low = next((e.end for e in machine.e820 if e.start < _BIOS_BEGIN), _BIOS_BEGIN)
    rows = [
        (Reserved(build.image_start, build.brk_start + build.brk_used, KERNEL_IMAGE), kernel),
        (Reserved(0, _LOW_RESERVE if policy.first_mib_reserved else PAGE_SIZE, LOW_MEMORY), 0),
        (Reserved(align_down(min(low, _BIOS_BEGIN), PAGE_SIZE), MIB, LOW_MEMORY), 0),
    ]
    rows += [
        (row, kernel if row.owner == INITRD else 0) for row in machine.placed if row.owner != ACPI_TABLES
    ]
    for row, flags in rows:
        mb.reserve(row.start, row.end, NO_NID, flags)
    return [row for row, _ in rows if row.owner != LOW_MEMORY]


def _reserve_low(mb: Memblock, options: CommandLine, policy: KernelPolicy, build: KernelBuild) -> None:
    """The real-mode trampoline below 1 MiB, then the low memory Linux leaves to the BIOS, or all of it to a
    crash kernel (crash_reserve_low_1M())."""
    placed = mb.allocate(LOW_MEMORY, build.trampoline, PAGE_SIZE, end=MIB)
    low = MIB if policy.first_mib_reserved or (placed and options.crashkernel_given) else _LOW_RESERVE
    mb.reserve(0, low)


def _mark_early(mb: Memblock, hot_ranges: tuple[tuple[int, int], ...], policy: KernelPolicy) -> None:
    """The 2013 proposal's own walk: mark each hotpluggable entry with nothing reserved in it."""
    for start, length in hot_ranges:
        used = any(row[0] < start + length and row[1] > start for row in mb.reserved)
        if not (used and policy.kernel_exemption is KernelExemption.ENTRY):
            mb.mark_hotplug(start, length)


def _ram_map(
    e820: tuple[E820Entry, ...], options: CommandLine, build: KernelBuild
) -> list[tuple[int, int, E820Type]]:
    rows: list[tuple[int, int, E820Type]] = []
    for entry in sorted(e820, key=lambda e: _TYPE_RANK[e.type]):
        rows = _paint(rows, entry.start, entry.end, entry.type)
    for edit in options.map_edits:
        if edit.type is None:
            rows = _paint(rows, edit.start, edit.end, None, only=E820Type.USABLE)
        else:
            covered = [r for r in rows if r[0] < edit.end and r[1] > edit.start]
            rows = _paint(rows, edit.start, edit.end, edit.type)
            for start, end, kind in covered:
                if _TYPE_RANK[kind] > _TYPE_RANK[edit.type]:
                    rows = _paint(rows, max(start, edit.start), min(end, edit.end), kind)
    image = (build.image_start, build.image_end)
    if not any(s <= image[0] and e >= image[1] and t is E820Type.USABLE for s, e, t in _joined(rows)):
        rows = _paint(rows, *image, E820Type.USABLE)
    rows = _paint(rows, 0, PAGE_SIZE, E820Type.RESERVED, only=E820Type.USABLE)
    rows = _paint(rows, _BIOS_BEGIN, _BIOS_END, None, only=E820Type.USABLE)
    return _joined(rows)


def _joined(rows: list[tuple[int, int, E820Type]]) -> list[tuple[int, int, E820Type]]:
    out: list[tuple[int, int, E820Type]] = []
    for row in sorted(rows):
        if out and out[-1][1] == row[0] and out[-1][2] is row[2]:
            out[-1] = (out[-1][0], row[1], row[2])
        else:
            out.append(row)
    return out


def _paint(
    rows: list[tuple[int, int, E820Type]],
    start: int,
    end: int,
    kind: E820Type | None,
    *,
    only: E820Type | None = None,
) -> list[tuple[int, int, E820Type]]:
    """Set [start, end) to `kind` (None: nothing); with `only`, just the parts of that type."""
    out: list[tuple[int, int, E820Type]] = []
    painted: list[tuple[int, int]] = [] if only else [(start, end)]
    for low, high, old in rows:
        if high <= start or low >= end or (only and old is not only):
            out.append((low, high, old))
            continue
        if low < start:
            out.append((low, start, old))
        if high > end:
            out.append((end, high, old))
        if only:
            painted.append((max(low, start), min(high, end)))
    if kind is not None:
        out += [(low, high, kind) for low, high in painted if low < high]
    return out


def _relocate_initrd(mb: Memblock, owners: list[Reserved]) -> list[Reserved]:
    """reserve_initrd(): an initrd outside mapped RAM is copied into it and its old place freed."""
    out = []
    for row in owners:
        if row.owner == INITRD and not mb.is_region_memory(row.start, row.end):
            at = mb.allocate(INITRD, align_up(row.end - row.start, PAGE_SIZE), PAGE_SIZE)
            if at:
                mb.free(row.start, row.end)
                out.append(Reserved(at, at + row.end - row.start, INITRD))
                continue
        out.append(row)
    return out


class _DirectMap:
    """init_memory_mapping() with 2 MiB pages: which page tables it allocates, and where."""

    def __init__(self, mb: Memblock, build: KernelBuild) -> None:
        self.mb = mb
        brk_end = build.brk_start + build.brk_used
        self.buffer = brk_end - build.page_table_buffer
        self.buffer_top = brk_end
        self.can_use_buffer = True
        self.min_mapped = self.max_mapped = 0
        self.pgds: set[int] = set()
        self.puds: set[int] = set()
        self.ptes: set[int] = set()
        self.pages: list[int] = []
        self.failed = False

    def page(self) -> None:
        """alloc_low_pages(1)."""
        if self.can_use_buffer and self.buffer < self.buffer_top:
            self.buffer += PAGE_SIZE
            return
        at = 0
        if self.min_mapped < self.max_mapped:
            at = self.mb.allocate(
                PAGE_TABLES, PAGE_SIZE, PAGE_SIZE, start=self.min_mapped, end=self.max_mapped
            )
        if at:
            self.pages.append(at)
        else:
            self.failed = True

    def map(self, start: int, end: int) -> None:
        """init_memory_mapping() of [start, end)."""
        last = end
        for low, high, large in self._split(start, end):
            last = high
            for pgd in range(low // _PGD_SIZE, (high - 1) // _PGD_SIZE + 1):
                if pgd not in self.pgds:
                    self.pgds.add(pgd)
                    self.page()
                for pud in range(max(low // GIB, pgd * 512), min((high - 1) // GIB, pgd * 512 + 511) + 1):
                    if pud not in self.puds:
                        self.puds.add(pud)
                        self.page()
                    if large:
                        last = align_up(high, _PMD_SIZE)
                        continue
                    for pmd in range(
                        max(low // _PMD_SIZE, pud * 512), min((high - 1) // _PMD_SIZE, pud * 512 + 511) + 1
                    ):
                        if pmd not in self.ptes:
                            self.ptes.add(pmd)
                            self.page()
        self.max_mapped = max(self.max_mapped, last)

    def _split(self, start: int, end: int) -> list[tuple[int, int, bool]]:
        """split_mem_range(): [head 4K][body 2M][tail 4K], small pieces widened where RAM surrounds them."""
        first, last = align_up(start, _PMD_SIZE), align_down(end, _PMD_SIZE)
        if first >= last:
            pieces = [(start, min(first, end), False), (min(first, end), end, False)]
        else:
            pieces = [(start, first, False), (first, last, True), (last, end, False)]
        return [
            (
                low,
                high,
                large or self.mb.is_region_memory(align_down(low, _PMD_SIZE), align_up(high, _PMD_SIZE)),
            )
            for low, high, large in pieces
            if low < high
        ]

    def map_ram(self, low: int, high: int) -> int:
        """init_range_memory_mapping(): the RAM inside [low, high); returns the bytes mapped."""
        mapped = 0
        for row in self.mb.memory:
            start, end = max(row[0], low), min(row[1], high)
            if start >= end:
                continue
            self.can_use_buffer = max(start, self.buffer) >= min(end, self.buffer_top)
            self.map(start, end)
            self.can_use_buffer = True
            mapped += end - start
        return mapped


def _direct_map(mb: Memblock, max_pfn: int, build: KernelBuild) -> list[int] | None:
    """init_mem_mapping(); the page table pages taken from memblock, None where there was no memory."""
    walk = _DirectMap(mb, build)
    walk.map(0, MIB)
    end = max_pfn << PAGE_SHIFT
    if mb.bottom_up:
        for low, high in ((build.image_end, end), (MIB, build.image_end)):
            _map_bottom_up(walk, low, high)
    else:
        _map_top_down(walk, MIB, end)
    return None if walk.failed else walk.pages


def _map_bottom_up(walk: _DirectMap, low: int, high: int) -> None:
    step, mapped, start = _PMD_SIZE, 0, low
    walk.min_mapped = low
    while start < high:
        following = min(align_up(start + 1, step), high) if high - start > step else high
        mapped += walk.map_ram(start, following)
        start = following
        if mapped >= step:
            step <<= 8


def _map_top_down(walk: _DirectMap, low: int, high: int) -> None:
    at = walk.mb.find(_PMD_SIZE, _PMD_SIZE, low, high, -1)
    real_end = at + _PMD_SIZE if at else max(low, align_down(high, _PMD_SIZE))
    step, mapped, last = _PMD_SIZE, 0, real_end
    walk.max_mapped = 0
    walk.min_mapped = real_end
    while last > low:
        start = max(align_down(last - 1, step), low) if last > step else low
        mapped += walk.map_ram(start, last)
        last = walk.min_mapped = start
        if mapped >= step:
            step <<= 8
    if real_end < high:
        walk.map_ram(real_end, high)
