"""The big boot-time allocations: the memory map (struct page) of every section, and percpu areas.

Sources (6.1): sparse_init(), sparse_init_nid() in mm/sparse.c, vmemmap_populate_hugepages() in
arch/x86/mm/init_64.c, vmemmap_alloc_block() in mm/sparse-vmemmap.c, setup_per_cpu_areas() in
arch/x86/kernel/setup_percpu.c.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from acpitk.kernel.memblock import KernelPanicError, Memblock
from acpitk.kernel.numa import page_ranges
from acpitk.kernel.policy import KernelBuild, KernelPolicy
from acpitk.outcome import NodeData
from acpitk.ranges import GIB, MIB, PAGE_SHIFT, PAGE_SIZE, SECTION_SIZE

_MAX_DMA = 16 * MIB
_PMD_SIZE = 2 * MIB
_CACHE_LINE = 64
_SECTION_PAGES = SECTION_SIZE >> PAGE_SHIFT
MEMORY_MAP = "memory map"
_ROOTS = "memory_present"
_PERCPU_PAGES = 64
"""About the pages of one CPU's static, reserved and dynamic percpu area."""


def populate(mb: Memblock, nodes: list[NodeData], policy: KernelPolicy, build: KernelBuild) -> list[int]:
    """Allocate the memory map of every present section, as sparse_init() does.

    Args:
        mb: changed in place.
        nodes: where each online node's pg_data_t sits.

    Returns:
        Numbers of the sections left without a memory map for want of memory.

    Raises:
        KernelPanicError: no memory where the kernel panics for it.
    """
    runs = _runs(mb)
    if not mb.allocate_retry("section roots", build.section_roots, _CACHE_LINE):
        raise KernelPanicError(f"{_ROOTS}: Failed to allocate {build.section_roots} bytes align=0x40")
    next_root = 0
    for nid, run in runs:
        for root in _groups(run, build.sections_per_root):
            if root < next_root:
                continue
            next_root = root + 1
            if not mb.allocate_retry("section root", build.section_root, _CACHE_LINE, nid=nid):
                raise KernelPanicError(
                    f"sparse_index_alloc: Failed to allocate {build.section_root} bytes nid={nid}"
                )
    data = {node.nid: node.start for node in nodes}
    tables: set[int] = set()
    lost: list[int] = []
    for nid, run in runs:
        lost += _populate_run(mb, nid, run, data.get(nid, 0), tables, policy, build)
    return lost


def _populate_run(
    mb: Memblock,
    nid: int,
    run: list[range],
    node_data: int,
    tables: set[int],
    policy: KernelPolicy,
    build: KernelBuild,
) -> list[int]:
    """sparse_init_nid(): the sections from the first one without memory for it on."""
    late = policy.memory_map_after_zones
    count = sum(map(len, run))
    usage = build.section_usage * count
    if late:
        usage_found = bool(mb.allocate("section usage", usage, _CACHE_LINE, nid=nid))
    else:
        usage_found = _usage_near(mb, usage, node_data)
    if not usage_found and late:
        raise KernelPanicError(f"Failed to allocate usemap for node {nid}")
    if not usage_found:
        return [section for part in run for section in part]
    size = _SECTION_PAGES * build.struct_page
    buffered = not late and mb.allocate_retry(
        MEMORY_MAP, size * count, _PMD_SIZE, start=_MAX_DMA, nid=nid, exact=True
    )
    per_table = GIB // size
    for table in _groups(run, per_table):
        _page_tables(mb, nid, table, tables)
        if buffered:
            continue
        part = [section for sections in run for section in sections if section // per_table == table]
        taken = mb.allocate_pieces(
            MEMORY_MAP, _PMD_SIZE, len(part) * size // _PMD_SIZE, start=_MAX_DMA, nid=nid
        )
        mapped = taken * _PMD_SIZE // size
        while mapped < len(part) and _base_pages(mb, nid, size):
            mapped += 1
        if mapped < len(part):
            if late:
                raise KernelPanicError(f"Failed to allocate memmap for section {part[mapped]}")
            return [section for sections in run for section in sections if section >= part[mapped]]
    return []


def percpu(mb: Memblock, nodes: Sequence[int]) -> None:
    """setup_per_cpu_areas(): 2 MiB allocations for the processors of each node, or single pages for all.

    Args:
        nodes: the node of each possible processor; the boot processor first.

    Raises:
        KernelPanicError: no memory for either.
    """
    sizes = Counter(nodes)
    units = _units_per_allocation(sizes.values()) if len(nodes) > 1 else 1
    for nid, count in sizes.items():
        size = -(-count // units) * _PMD_SIZE
        if not mb.allocate_retry("percpu area", size, _PMD_SIZE, start=_MAX_DMA, nid=nid):
            break
    else:
        return
    for nid in nodes:
        got = mb.allocate_pieces("percpu area", PAGE_SIZE, _PERCPU_PAGES, start=_MAX_DMA, nid=nid)
        if got < _PERCPU_PAGES:
            raise KernelPanicError("cannot initialize percpu area (err=-12)")


def _units_per_allocation(sizes: Collection[int]) -> int:
    """pcpu_build_alloc_info(), mm/percpu.c: as few allocations as waste no more than a third of the units."""
    best, fewest = 1, 1 << 30
    for units in (8, 4, 2, 1):
        allocations = sum(-(-size // units) for size in sizes)
        if allocations * units - sum(sizes) > sum(sizes) // 3:
            continue
        if allocations > fewest:
            break
        best, fewest = units, allocations
    return best


def _runs(mb: Memblock) -> list[tuple[int, list[range]]]:
    """Present sections in order, cut where the node changes: memory_present(), sparse_init().

    A section belongs to the first region that touches it; a run goes on across holes.
    """
    runs: list[tuple[int, list[range]]] = []
    reached = 0
    for start, end, nid in page_ranges(mb.memory):
        first, last = max(start // _SECTION_PAGES, reached), (end - 1) // _SECTION_PAGES + 1
        if first >= last:
            continue
        reached = last
        if not runs or runs[-1][0] != nid:
            runs.append((nid, []))
        runs[-1][1].append(range(first, last))
    return runs


def _groups(run: list[range], size: int) -> Iterator[int]:
    """Numbers of the groups of `size` sections that the run touches, ascending."""
    last = -1
    for part in run:
        for group in range(part[0] // size, part[-1] // size + 1):
            if group > last:
                last = group
                yield group


def _usage_near(mb: Memblock, size: int, node_data: int) -> bool:
    """sparse_early_usemaps_alloc_pgdat_section(): in the section of the pg_data_t, then anywhere above."""
    goal = node_data & -SECTION_SIZE
    near = mb.nid_of(goal)
    return any(
        mb.allocate("section usage", size, _CACHE_LINE, start=start, end=end, nid=near)
        for start, end in ((goal, goal + SECTION_SIZE), (0, goal + SECTION_SIZE), (goal, 0), (0, 0))
    )


def _base_pages(mb: Memblock, nid: int, size: int) -> bool:
    """vmemmap_populate_basepages(): `size` bytes of single pages, where no 2 MiB piece is left."""
    pages = size // PAGE_SIZE + size // _PMD_SIZE
    return mb.allocate_pieces(MEMORY_MAP, PAGE_SIZE, pages, start=_MAX_DMA, nid=nid) == pages


def _page_tables(mb: Memblock, nid: int, gib: int, tables: set[int]) -> None:
    """Page tables of the vmemmap: one at the top, one for each GiB of struct pages."""
    for table in (-1, gib):
        if table not in tables:
            tables.add(table)
            mb.allocate_retry("memory map page tables", PAGE_SIZE, PAGE_SIZE, start=_MAX_DMA, nid=nid)
