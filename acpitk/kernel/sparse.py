"""The big boot-time allocations: the memory map (struct page) of every section, and percpu areas.

Sources (6.1): sparse_init(), sparse_init_nid() in mm/sparse.c, vmemmap_populate_hugepages() in
arch/x86/mm/init_64.c, vmemmap_alloc_block() in mm/sparse-vmemmap.c, setup_per_cpu_areas() in
arch/x86/kernel/setup_percpu.c.
"""

from __future__ import annotations

from acpitk.kernel.memblock import Memblock
from acpitk.kernel.numa import page_ranges
from acpitk.kernel.policy import KernelBuild, KernelPolicy
from acpitk.kernel.srat import KernelPanicError
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
    sections = _present_sections(mb)
    if not mb.allocate_retry("section roots", build.section_roots, _CACHE_LINE):
        raise KernelPanicError(f"{_ROOTS}: Failed to allocate {build.section_roots} bytes align=0x40")
    roots: set[int] = set()
    for section, nid in sections.items():
        if (root := section // build.sections_per_root) not in roots:
            roots.add(root)
            if not mb.allocate_retry("section root", build.section_root, _CACHE_LINE, nid=nid):
                raise KernelPanicError(
                    f"sparse_index_alloc: Failed to allocate {build.section_root} bytes nid={nid}"
                )
    data = {node.nid: node.start for node in nodes}
    tables: set[int] = set()
    lost: list[int] = []
    for nid, run in _runs(sections):
        lost += _populate_run(mb, nid, run, data.get(nid, 0), tables, policy, build)
    return lost


def _populate_run(
    mb: Memblock,
    nid: int,
    run: list[int],
    node_data: int,
    tables: set[int],
    policy: KernelPolicy,
    build: KernelBuild,
) -> list[int]:
    """sparse_init_nid(): the sections from the first one without memory for it on."""
    late = policy.memory_map_after_zones
    usage = build.section_usage * len(run)
    if late:
        usage_found = bool(mb.allocate("section usage", usage, _CACHE_LINE, nid=nid))
    else:
        usage_found = _usage_near(mb, usage, node_data)
    if not usage_found:
        if late:
            raise KernelPanicError(f"Failed to allocate usemap for node {nid}")
        return run
    size = _SECTION_PAGES * build.struct_page
    if not late and mb.allocate_retry(
        MEMORY_MAP, size * len(run), _PMD_SIZE, start=_MAX_DMA, nid=nid, exact=True
    ):
        for pud in sorted({section * size // GIB for section in run}):
            _page_tables(mb, nid, pud, tables)
        return []
    for index, section in enumerate(run):
        _page_tables(mb, nid, section * size // GIB, tables)
        if not all(_map_piece(mb, nid) for _ in range(size // _PMD_SIZE)):
            if late:
                raise KernelPanicError(f"Failed to allocate memmap for section {section}")
            return run[index:]
    return []


def percpu(mb: Memblock, nid: int) -> None:
    """setup_per_cpu_areas() for one CPU of node `nid`: one 2 MiB unit, or single pages.

    Raises:
        KernelPanicError: no memory for either.
    """
    if mb.allocate_retry("percpu area", _PMD_SIZE, _PMD_SIZE, start=_MAX_DMA, nid=nid):
        return
    if not all(
        mb.allocate_retry("percpu area", PAGE_SIZE, PAGE_SIZE, start=_MAX_DMA, nid=nid)
        for _ in range(_PERCPU_PAGES)
    ):
        raise KernelPanicError("cannot initialize percpu area (err=-12)")


def _present_sections(mb: Memblock) -> dict[int, int]:
    """Section number -> nid of the first region that touches it (memory_present())."""
    sections: dict[int, int] = {}
    for start, end, nid in page_ranges(mb.memory):
        for section in range(start // _SECTION_PAGES, (end - 1) // _SECTION_PAGES + 1):
            sections.setdefault(section, nid)
    return sections


def _runs(sections: dict[int, int]) -> list[tuple[int, list[int]]]:
    runs: list[tuple[int, list[int]]] = []
    for section, nid in sections.items():
        if runs and runs[-1][0] == nid:
            runs[-1][1].append(section)
        else:
            runs.append((nid, [section]))
    return runs


def _usage_near(mb: Memblock, size: int, node_data: int) -> bool:
    """sparse_early_usemaps_alloc_pgdat_section(): in the section of the pg_data_t, then anywhere above."""
    goal = node_data & -SECTION_SIZE
    near = mb.nid_of(goal)
    return any(
        mb.allocate("section usage", size, _CACHE_LINE, start=start, end=end, nid=near)
        for start, end in ((goal, goal + SECTION_SIZE), (0, goal + SECTION_SIZE), (goal, 0), (0, 0))
    )


def _map_piece(mb: Memblock, nid: int) -> bool:
    """vmemmap_populate_hugepages() of 2 MiB; vmemmap_populate_basepages() where no such piece is left."""
    if mb.allocate_retry(MEMORY_MAP, _PMD_SIZE, _PMD_SIZE, start=_MAX_DMA, nid=nid):
        return True
    return all(
        mb.allocate_retry(MEMORY_MAP, PAGE_SIZE, PAGE_SIZE, start=_MAX_DMA, nid=nid)
        for _ in range(1 + _PMD_SIZE // PAGE_SIZE)
    )


def _page_tables(mb: Memblock, nid: int, gib: int, tables: set[int]) -> None:
    """Page tables of the vmemmap: one at the top, one for each GiB of struct pages."""
    for table in (-1, gib):
        if table not in tables:
            tables.add(table)
            mb.allocate_retry("memory map page tables", PAGE_SIZE, PAGE_SIZE, start=_MAX_DMA, nid=nid)
