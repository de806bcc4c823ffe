"""Kernel versions as data: one field per behaviour that differs, one row per version.

`KernelPolicy` holds behaviours, `KernelBuild` what compiling fixed (limits, image size, structure sizes).
Each field says where it was read; facts without a file are in mm/memblock.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum

from acpitk.ranges import KIB, MIB


class TrimBounds(StrEnum):
    """Limits numa_cleanup_meminfo() trims NUMA memory blocks to."""

    ZERO_TO_MAX_PFN = "0 to max_pfn"
    DRAM = "first to last byte of memblock.memory"


class Coverage(StrEnum):
    """How much RAM may be left without a node before the NUMA configuration is rejected."""

    BELOW_1M = "less than 1 MiB of e820 RAM outside numa_meminfo"
    UP_TO_1M = "at most 1 MiB of memblock.memory without a node"


class HotplugStart(Enum):
    """Rounding of a hotpluggable region's base in find_zone_movable_pfns_for_nodes()."""

    PFN_DOWN = "PFN_DOWN"
    PFN_UP = "PFN_UP"


class MirrorWithoutMirror(StrEnum):
    """kernelcore=mirror on a machine without mirrored memory."""

    ALL_ABOVE_4G_MOVABLE = "all RAM from 4 GiB on becomes movable"
    IGNORED = "the option is ignored"


class NodeDataFailure(StrEnum):
    """alloc_node_data() finds no memory."""

    NODE_OFFLINE = "the node stays offline"
    PANIC = "panic"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPolicy:
    """What one kernel version does.

    Args:
        name: the row's name, `v6.1`.
        source: the tree the row was read from.
        trim_bounds: numa_cleanup_meminfo(); arch/x86/mm/numa.c (6.1), mm/numa_memblks.c (6.12).
        coverage: numa_meminfo_cover_memory() (6.1), memblock_validate_numa_coverage() (6.12).
        hotplug_start: find_zone_movable_pfns_for_nodes(); mm/page_alloc.c (6.1), mm/mm_init.c (6.12).
        mirror_without_mirror: the same function.
        mirror_cuts_zones: kernel zones end where ZONE_MOVABLE starts also when kernelcore=mirror is given;
            adjust_zone_range_for_zone_movable() leaves them uncut in 6.1.
        node_data_failure: alloc_node_data(); arch/x86/mm/numa.c (6.1), mm/numa.c (6.12).
        low_memory: bytes at 0 reserved before SRAT parsing, reserve_real_mode(); arch/x86/realmode/init.c.
        overlap_rejects: numa_cleanup_meminfo() rejects overlaps between nodes.
        holes_swallowed: numa_cleanup_meminfo() joins blocks of one node across holes no other node owns.
        kernel_nodes_exempt: numa_clear_kernel_node_hotplug() unmarks whole nodes with reserved memory.
        allocator_skips_hotplug: should_skip_region() passes over marked regions under movable_node.
        movable_node_first: movable_node overrides kernelcore= and movablecore=.
        bottom_up_until_srat: movable_node allocates bottom-up until the SRAT is parsed (setup_arch()).
        revision_1_masks_pxm: acpi_numa_memory_affinity_init() keeps 8 bits of a revision 1 table's domain.
    """

    name: str
    source: str
    trim_bounds: TrimBounds
    coverage: Coverage
    hotplug_start: HotplugStart
    mirror_without_mirror: MirrorWithoutMirror
    mirror_cuts_zones: bool
    node_data_failure: NodeDataFailure
    low_memory: int
    overlap_rejects: bool
    holes_swallowed: bool
    kernel_nodes_exempt: bool
    allocator_skips_hotplug: bool
    movable_node_first: bool
    bottom_up_until_srat: bool
    revision_1_masks_pxm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelBuild:
    """What a kernel's configuration and linking fix. Sizes in bytes; addresses physical.

    Args:
        image_start: `_text`, where an uncompressed image is loaded without KASLR.
        brk_start: `__brk_base`, the end of the image proper.
        brk_used: bytes of brk in use when reserve_brk() runs: DMI strings, then the page table buffer.
        page_table_buffer: bytes of that buffer (INIT_PGT_BUF_SIZE, arch/x86/mm/init.c).
        image_end: `_end`.
        max_numnodes: MAX_NUMNODES.
        node_data: bytes allocated for a pg_data_t.
        struct_page: sizeof(struct page).
        section_usage: mem_section_usage_size(), mm/sparse.c.
        section_roots: bytes of the `mem_section` root array; `section_root` of one root.
        sections_per_root: SECTIONS_PER_ROOT.
        max_local_apic: MAX_LOCAL_APIC.
        flat_apic_limit: the first APIC ID the default (not x2APIC) driver refuses.
    """

    image_start: int
    brk_start: int
    brk_used: int
    page_table_buffer: int
    image_end: int
    max_numnodes: int
    node_data: int
    struct_page: int
    section_usage: int
    section_roots: int
    section_root: int
    sections_per_root: int
    max_local_apic: int
    flat_apic_limit: int

    @property
    def max_pxm_domains(self) -> int:
        """MAX_PXM_DOMAINS (include/acpi/acpi_numa.h)."""
        return self.max_numnodes if self.max_numnodes > 256 else 256

    @property
    def max_memblks(self) -> int:
        """NR_NODE_MEMBLKS (include/acpi/acpi_numa.h, arch/x86/include/asm/numa.h)."""
        return 2 * self.max_numnodes


V6_1 = KernelPolicy(
    name="v6.1",
    source="Debian linux-source-6.1 6.1.192",
    trim_bounds=TrimBounds.ZERO_TO_MAX_PFN,
    coverage=Coverage.BELOW_1M,
    hotplug_start=HotplugStart.PFN_DOWN,
    mirror_without_mirror=MirrorWithoutMirror.ALL_ABOVE_4G_MOVABLE,
    mirror_cuts_zones=False,
    node_data_failure=NodeDataFailure.NODE_OFFLINE,
    low_memory=MIB,
    overlap_rejects=True,
    holes_swallowed=True,
    kernel_nodes_exempt=True,
    allocator_skips_hotplug=True,
    movable_node_first=True,
    bottom_up_until_srat=True,
    revision_1_masks_pxm=True,
)

POLICIES: Mapping[str, KernelPolicy] = {V6_1.name: V6_1}

_DEBIAN_CLOUD_6_1 = KernelBuild(
    image_start=16 * MIB,
    brk_start=0x3800000,
    brk_used=68 * KIB,
    page_table_buffer=64 * KIB,
    image_end=0x3830000,
    max_numnodes=1024,
    node_data=0x2B000,
    struct_page=64,
    section_usage=56,
    section_roots=16 * KIB,
    section_root=4 * KIB,
    sections_per_root=256,
    max_local_apic=32768,
    flat_apic_limit=255,
)

BUILDS: Mapping[str, KernelBuild] = {V6_1.name: _DEBIAN_CLOUD_6_1}
"""The Debian cloud kernel behind each policy row."""
