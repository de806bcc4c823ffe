"""Kernel versions as data: one field per behaviour that differs, one row per version.

`KernelPolicy` holds behaviours, `KernelBuild` what compiling fixed (limits, image size, structure sizes).
Each field says where it was read; facts without a file are in mm/memblock.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
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


class HotplugMarks(StrEnum):
    """When hotpluggable ranges are marked."""

    SRAT_HANDLER = "by the memory affinity handler"
    EARLY_WALK = "by a walk of its own right after memblock is filled"


class KernelExemption(StrEnum):
    """What loses its hotplug mark because reserved memory is in it."""

    NODE = "every block of the node (numa_clear_kernel_node_hotplug)"
    ENTRY = "the single SRAT entry"
    NONE = "nothing"


class NodeDataFailure(StrEnum):
    """alloc_node_data() finds no memory."""

    NODE_OFFLINE = "the node stays offline"
    PANIC = "panic"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelPolicy:
    """What one kernel version does.

    None of the fields is a version number: a back-port changes a field, not a comparison.

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
        first_mib_reserved: all of the first MiB is reserved before the SRAT is parsed, reserve_real_mode();
            arch/x86/realmode/init.c. 5.10 keeps 64 KiB, the BIOS area and the trampoline only.
        kernel_reserves_marked: allocations, kernel image and initrd carry RSRV_KERN, and an allocation's
            region the node asked for; memblock_alloc_range_nid(), 7.3.
        nodes_need_pages: a node comes online when memblock has whole pages of it, not when numa_meminfo has
            bytes; numa_register_nodes() (6.12), numa_register_memblks() (6.1).
        memory_map_after_zones: sparse_init() runs after zones are laid out and allocates 2 MiB pieces;
            mm/mm_init.c (7.3).
        hotplug_option: the command line word.
        hotplug_marks: when hotpluggable ranges are marked in memblock.memory.
        kernel_exemption: what loses its mark because the kernel resides there.
        marks_survive_rejection: marks stay when the SRAT is refused.
        movable_past_node_end: ZONE_MOVABLE may start past the node's end; 2013 proposal.
        overlap_rejects: numa_cleanup_meminfo() rejects overlaps between nodes.
        holes_swallowed: numa_cleanup_meminfo() joins blocks of one node across holes no other node owns.
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
    first_mib_reserved: bool
    kernel_reserves_marked: bool
    nodes_need_pages: bool
    memory_map_after_zones: bool
    hotplug_option: str
    hotplug_marks: HotplugMarks
    kernel_exemption: KernelExemption
    marks_survive_rejection: bool
    movable_past_node_end: bool
    overlap_rejects: bool
    holes_swallowed: bool
    allocator_skips_hotplug: bool
    movable_node_first: bool
    bottom_up_until_srat: bool
    revision_1_masks_pxm: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelBuild:
    """What a kernel's configuration and linking fix. Sizes in bytes; addresses physical.

    Args:
        image_start: `_text`, where an uncompressed image is loaded without KASLR.
        brk_start: `__brk_base`, the end of the image proper.
        brk_used: bytes of brk in use when reserve_brk() runs: DMI strings, then the page table buffer.
        page_table_buffer: bytes of that buffer (INIT_PGT_BUF_SIZE, arch/x86/mm/init.c).
        image_end: `_end`.
        trampoline: real_mode_size_needed().
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
    trampoline: int
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
    first_mib_reserved=True,
    kernel_reserves_marked=False,
    nodes_need_pages=False,
    memory_map_after_zones=False,
    hotplug_option="movable_node",
    hotplug_marks=HotplugMarks.SRAT_HANDLER,
    kernel_exemption=KernelExemption.NODE,
    marks_survive_rejection=False,
    movable_past_node_end=False,
    overlap_rejects=True,
    holes_swallowed=True,
    allocator_skips_hotplug=True,
    movable_node_first=True,
    bottom_up_until_srat=True,
    revision_1_masks_pxm=True,
)

V5_10 = replace(
    V6_1,
    name="v5.10",
    source="Debian linux-source-5.10 5.10.223",
    first_mib_reserved=False,
)

V6_12 = replace(
    V6_1,
    name="v6.12",
    source="Debian linux-source-6.12 6.12.117",
    trim_bounds=TrimBounds.DRAM,
    coverage=Coverage.UP_TO_1M,
    hotplug_start=HotplugStart.PFN_UP,
    mirror_without_mirror=MirrorWithoutMirror.IGNORED,
    node_data_failure=NodeDataFailure.PANIC,
    nodes_need_pages=True,
)

V7_3 = replace(
    V6_12,
    name="v7.3",
    source="Debian linux-source-7.3 7.3.4",
    mirror_cuts_zones=True,
    kernel_reserves_marked=True,
    memory_map_after_zones=True,
)

SEED_2013 = replace(
    V5_10,
    name="seed-2013",
    source='the patch set "Arrange hotpluggable memory as ZONE_MOVABLE" of August 2013, part 5',
    hotplug_option="movablenode",
    hotplug_marks=HotplugMarks.EARLY_WALK,
    kernel_exemption=KernelExemption.ENTRY,
    bottom_up_until_srat=False,
    marks_survive_rejection=True,
    movable_past_node_end=True,
)

POLICIES: Mapping[str, KernelPolicy] = {
    policy.name: policy for policy in (V5_10, V6_1, V6_12, V7_3, SEED_2013)
}
"""Every row by name."""

_DEBIAN_CLOUD_6_1 = KernelBuild(
    image_start=16 * MIB,
    brk_start=0x3800000,
    brk_used=68 * KIB,
    page_table_buffer=64 * KIB,
    image_end=0x3830000,
    max_numnodes=1024,
    trampoline=28 * KIB,
    node_data=0x2B000,
    struct_page=64,
    section_usage=56,
    section_roots=16 * KIB,
    section_root=4 * KIB,
    sections_per_root=256,
    max_local_apic=32768,
    flat_apic_limit=255,
)

_DEBIAN_CLOUD_5_10 = replace(
    _DEBIAN_CLOUD_6_1,
    brk_start=0x3200000,
    brk_used=52 * KIB,
    page_table_buffer=48 * KIB,
    image_end=0x322C000,
    trampoline=24 * KIB,
    node_data=0x2A000,
)
_DEBIAN_CLOUD_6_12 = replace(_DEBIAN_CLOUD_6_1, brk_start=0x3C00000, image_end=0x3C30000, node_data=0x2A980)
_DEBIAN_CLOUD_7_3 = replace(
    _DEBIAN_CLOUD_6_1, brk_start=0x4200000, image_end=0x4230000, node_data=0x2B0C0, section_usage=88
)

BUILDS: Mapping[str, KernelBuild] = {
    V5_10.name: _DEBIAN_CLOUD_5_10,
    V6_1.name: _DEBIAN_CLOUD_6_1,
    V6_12.name: _DEBIAN_CLOUD_6_12,
    V7_3.name: _DEBIAN_CLOUD_7_3,
    SEED_2013.name: _DEBIAN_CLOUD_5_10,
}
"""The Debian cloud kernel behind each policy row."""


def policy_diff(old: KernelPolicy, new: KernelPolicy) -> list[tuple[str, object, object]]:
    """The behaviours in which two rows differ: (field, old value, new value), in field order."""
    return [
        (field.name, before, after)
        for field in fields(KernelPolicy)
        if field.name not in ("name", "source")
        and (before := getattr(old, field.name)) != (after := getattr(new, field.name))
    ]
