"""sparse_init(): where the memory map (struct page) of every section goes.

Sources (6.1): sparse_init(), sparse_init_nid() in mm/sparse.c, vmemmap_populate_hugepages() in
arch/x86/mm/init_64.c, vmemmap_alloc_block() in mm/sparse-vmemmap.c.
"""

from __future__ import annotations

from acpitk.kernel.memblock import Memblock
from acpitk.kernel.numa import page_ranges
from acpitk.kernel.policy import KernelBuild, KernelPolicy
from acpitk.outcome import NodeData
from acpitk.ranges import GIB, MIB, PAGE_SHIFT, PAGE_SIZE, SECTION_SIZE

_MAX_DMA = 16 * MIB
_PMD_SIZE = 2 * MIB
_CACHE_LINE = 64
_SECTION_PAGES = SECTION_SIZE >> PAGE_SHIFT
MEMORY_MAP = "memory map"


def populate(mb: Memblock, nodes: list[NodeData], policy: KernelPolicy, build: KernelBuild) -> list[int]:
    """Allocate the memory map of every present section, as sparse_init() does.

    Args:
        mb: changed in place.
        nodes: where each online node's pg_data_t sits.

    Returns:
        Numbers of the sections left without a memory map for want of memory.
    """
    sections = _present_sections(mb)
    mb.allocate_retry("section roots", build.section_roots, _CACHE_LINE)
    roots: set[int] = set()
    for section, nid in sections.items():
        if (root := section // build.sections_per_root) not in roots:
            roots.add(root)
            mb.allocate_retry("section root", build.section_root, _CACHE_LINE, nid=nid)
    data = {node.nid: node.start for node in nodes}
    tables: set[int] = set()
    lost: list[int] = []
    for nid, run in _runs(sections):
        if policy.memory_map_after_zones:
            mb.allocate("section usage", build.section_usage * len(run), _CACHE_LINE, nid=nid)
            buffered = False
        else:
            buffered = _node_buffer(mb, nid, len(run), data.get(nid, 0), build)
        lost += [section for section in run if not _memory_map(mb, nid, section, tables, build, buffered)]
    return lost


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


def _node_buffer(mb: Memblock, nid: int, count: int, node_data: int, build: KernelBuild) -> bool:
    """sparse_init_nid(): usage maps near the pg_data_t, then one buffer on the node for `count` sections."""
    usage = build.section_usage * count
    goal = node_data & -SECTION_SIZE
    near = mb.nid_of(goal)
    for start, end in ((goal, goal + SECTION_SIZE), (0, goal + SECTION_SIZE), (goal, 0), (0, 0)):
        if mb.allocate("section usage", usage, _CACHE_LINE, start=start, end=end, nid=near):
            break
    size = _SECTION_PAGES * build.struct_page * count
    return bool(mb.allocate_retry(MEMORY_MAP, size, _PMD_SIZE, start=_MAX_DMA, nid=nid, exact=True))


def _memory_map(
    mb: Memblock, nid: int, section: int, tables: set[int], build: KernelBuild, buffered: bool
) -> bool:
    """vmemmap_populate() of one section: from the node's buffer, or in 2 MiB pieces anywhere."""
    size = _SECTION_PAGES * build.struct_page
    _page_tables(mb, nid, section * size, tables)
    return buffered or all(
        mb.allocate_retry(MEMORY_MAP, _PMD_SIZE, _PMD_SIZE, start=_MAX_DMA, nid=nid)
        for _ in range(size // _PMD_SIZE)
    )


def _page_tables(mb: Memblock, nid: int, offset: int, tables: set[int]) -> None:
    """Page tables of the vmemmap: one at the top, one for each GiB of struct pages."""
    for table in (-1, offset // GIB):
        if table not in tables:
            tables.add(table)
            mb.allocate_retry("memory map page tables", PAGE_SIZE, PAGE_SIZE, start=_MAX_DMA, nid=nid)
