"""Kernel versions as data: one field per behaviour that differs, one row per version.

`KernelPolicy` holds behaviours, `KernelBuild` what compiling fixed (limits, image size, structure sizes).
`BEHAVIOURS` says what each behaviour is and where each row's value was read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum, StrEnum

from acpitk.errors import UsageError
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
    NEVER = "never"


class KernelExemption(StrEnum):
    """What loses its hotplug mark because reserved memory is in it."""

    NODE = "every block of the node (numa_clear_kernel_node_hotplug)"
    ENTRY = "the single SRAT entry"
    NONE = "nothing"


class NodeDataFailure(StrEnum):
    """alloc_node_data() finds no memory."""

    NODE_OFFLINE = "the node stays offline"
    PANIC = "panic"


class OfflineNodeData(StrEnum):
    """free_area_init() meets a possible node without a pg_data_t."""

    NONE = "left without"
    TRIED = "allocated, or left without"
    PANIC = "allocated, or panic"
    OR_PANIC = "allocated, or panic by memblock_alloc_or_panic()"


class BlockZone(StrEnum):
    """Where the zone of a memory block comes from."""

    SAMPLED = "from a page every 4 MiB, whenever asked"
    STORED = "from the spans of its node's zones, once at boot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a field of `KernelPolicy` is about.

    Args:
        title: what varies, in words that a value completes.
        read: row -> where its value was read, "function(), file" in that row's source. A row not named here
            reads as the row before it; a proposal, as the oldest row, on which it stands.
    """

    title: str
    read: Mapping[str, str]

    def source(self, row: str) -> tuple[str, str]:
        """Where the value of row `row` was read: "function(), file", and the row in whose source that is."""
        if row not in self.read and POLICIES[row].version is None:
            row = OLDEST
        names = list(POLICIES)
        return next(self.read[n] for n in reversed(names[: names.index(row) + 1]) if n in self.read), row


def _behaviour(title: str, **read: str) -> Mapping[str, Behaviour]:
    """Metadata of a field; rows are spelled `v5_10`, `v6_12`, `seed_2013`."""
    spelled = {"seed_2013": "seed-2013"}
    rows = {spelled.get(row, row.replace("_", ".")): place for row, place in read.items()}
    return {"behaviour": Behaviour(title=title, read=rows)}


_X86_NUMA, _MEMBLKS = "arch/x86/mm/numa.c", "mm/numa_memblks.c"
_CLEANUP = {
    "v5_10": f"numa_cleanup_meminfo(), {_X86_NUMA}",
    "v6_12": f"numa_cleanup_meminfo(), {_MEMBLKS}",
}
_MOVABLE = {
    "v5_10": "find_zone_movable_pfns_for_nodes(), mm/page_alloc.c",
    "v6_12": "find_zone_movable_pfns_for_nodes(), mm/mm_init.c",
}
_AFFINITY = {
    "v5_10": "acpi_numa_memory_affinity_init(), drivers/acpi/numa/srat.c",
    "v6_12": "acpi_parse_memory_affinity(), drivers/acpi/numa/srat.c",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelPolicy:
    """What one kernel version does: `name` is the row's, `source` the tree it was read from.

    Every other field is a behaviour, described with its sources in `BEHAVIOURS`. None is a version number: a
    back-port changes a field, not a comparison.
    """

    name: str
    source: str
    trim_bounds: TrimBounds = field(
        metadata=_behaviour("bounds NUMA memory blocks are trimmed to", **_CLEANUP)
    )
    coverage: Coverage = field(
        metadata=_behaviour(
            "RAM that may be left without a node",
            v5_10=f"numa_meminfo_cover_memory(), {_X86_NUMA}",
            v6_12="memblock_validate_numa_coverage(), mm/memblock.c",
        )
    )
    hotplug_start: HotplugStart = field(metadata=_behaviour("ZONE_MOVABLE start rounding", **_MOVABLE))
    mirror_without_mirror: MirrorWithoutMirror = field(
        metadata=_behaviour("kernelcore=mirror without mirrored memory", **_MOVABLE)
    )
    mirror_cuts_zones: bool = field(
        metadata=_behaviour(
            "kernel zones end where ZONE_MOVABLE starts under kernelcore=mirror, too",
            v5_10="adjust_zone_range_for_zone_movable(), mm/page_alloc.c",
            v6_12="adjust_zone_range_for_zone_movable(), mm/mm_init.c",
        )
    )
    node_data_failure: NodeDataFailure = field(
        metadata=_behaviour(
            "no memory for a node's pg_data_t",
            v5_10=f"alloc_node_data(), {_X86_NUMA}",
            v6_12="alloc_node_data(), mm/numa.c",
        )
    )
    offline_node_data: OfflineNodeData = field(
        metadata=_behaviour(
            "the pg_data_t of a node that is possible and offline",
            v5_10="free_area_init(), mm/page_alloc.c",
            v6_12="alloc_offline_node_data(), mm/numa.c",
        )
    )
    node_data_elsewhere: bool = field(
        metadata=_behaviour(
            "a node without memory for its own pg_data_t gets it on another node",
            v5_10=f"alloc_node_data(), {_X86_NUMA}",
            v6_12="alloc_node_data(), mm/numa.c",
            seed_2013="patch 1/7 of the set",
        )
    )
    unassigned_is_first_node: bool = field(
        metadata=_behaviour(
            "memory without a node counts as the first online node's, not as node MAX_NUMNODES",
            v5_10="early_pfn_to_nid(), mm/page_alloc.c",
            v6_12="early_pfn_to_nid(), mm/mm_init.c",
        )
    )
    first_mib_reserved: bool = field(
        metadata=_behaviour(
            "all of the first MiB is reserved before the SRAT is parsed",
            v5_10="trim_low_memory_range(), arch/x86/kernel/setup.c",
            v6_1="reserve_real_mode(), arch/x86/realmode/init.c",
        )
    )
    max_pfn_counts_acpi: bool = field(
        metadata=_behaviour(
            "ACPI data at the end of the memory map counts as RAM for max_pfn",
            v5_10="e820_end_pfn(), arch/x86/kernel/e820.c",
            v6_12="e820__end_ram_pfn(), arch/x86/kernel/e820.c",
        )
    )
    kernel_reserves_marked: bool = field(
        metadata=_behaviour(
            "allocations, kernel image and initrd are reserved as RSRV_KERN, allocations with their node",
            v5_10="memblock_alloc_range_nid(), mm/memblock.c",
        )
    )
    late_reserves_apart: bool = field(
        metadata=_behaviour(
            "what is reserved once nodes were reset does not join what was before, both without a node",
            v5_10=f"numa_init(), {_X86_NUMA}",
            v6_12=f"numa_memblks_init(), {_MEMBLKS}",
            v7_3="__memblock_reserve(), mm/memblock.c",
        )
    )
    nodes_need_pages: bool = field(
        metadata=_behaviour(
            "a node comes online only with whole pages in memblock, not with bytes in numa_meminfo",
            v5_10=f"numa_register_memblks(), {_X86_NUMA}",
            v6_12=f"numa_register_nodes(), {_X86_NUMA}",
        )
    )
    memory_map_after_zones: bool = field(
        metadata=_behaviour(
            "the memory map is allocated after zones are laid out, in 2 MiB pieces",
            v5_10="paging_init(), arch/x86/mm/init_64.c",
            v7_3="mm_core_init_early(), mm/mm_init.c",
        )
    )
    hotplug_option: str = field(
        metadata=_behaviour(
            "command line word",
            v5_10="cmdline_parse_movable_node(), mm/memory_hotplug.c",
            seed_2013="patch 6/7 of the set",
        )
    )
    regions_have_flags: bool = field(
        metadata=_behaviour(
            "memblock regions carry flags and join only where those are equal",
            v5_10="memblock_merge_regions(), mm/memblock.c",
            seed_2013="patch 3/7 of the set",
        )
    )
    hotplug_marks: HotplugMarks = field(
        metadata=_behaviour(
            "hotpluggable ranges are marked in memblock.memory",
            **_AFFINITY,
            seed_2013="find_hotpluggable_memory(), patch 4/7 of the set",
        )
    )
    kernel_exemption: KernelExemption = field(
        metadata=_behaviour(
            "what loses its hotplug mark because reserved memory is in it",
            v5_10=f"numa_clear_kernel_node_hotplug(), {_X86_NUMA}",
            v6_12=f"numa_clear_kernel_node_hotplug(), {_MEMBLKS}",
            seed_2013="patch 2/7 of the set",
        )
    )
    marks_survive_rejection: bool = field(
        metadata=_behaviour(
            "hotplug marks stay when the SRAT is refused",
            v5_10=f"numa_init(), {_X86_NUMA}",
            v6_12=f"numa_memblks_init(), {_MEMBLKS}",
            seed_2013="patch 4/7 of the set, which has no function to clear a mark",
        )
    )
    movable_past_node_end: bool = field(
        metadata=_behaviour(
            "ZONE_MOVABLE may start past the node's end", **_MOVABLE, seed_2013="patch 7/7 of the set"
        )
    )
    pageless_movable_dropped: bool = field(
        metadata=_behaviour(
            "a node without a whole page loses its ZONE_MOVABLE start, which otherwise stays unaligned",
            **_MOVABLE,
        )
    )
    overlap_rejects: bool = field(
        metadata=_behaviour("overlaps between nodes reject the NUMA configuration", **_CLEANUP)
    )
    holes_swallowed: bool = field(
        metadata=_behaviour("blocks of one node are joined across holes no other node owns", **_CLEANUP)
    )
    allocator_skips_hotplug: bool = field(
        metadata=_behaviour(
            "the allocator passes over marked regions under the option",
            v5_10="should_skip_region(), mm/memblock.c",
            seed_2013="patch 5/7 of the set",
        )
    )
    movable_node_first: bool = field(
        metadata=_behaviour(
            "the option overrides kernelcore= and movablecore=", **_MOVABLE, seed_2013="patch 7/7 of the set"
        )
    )
    bottom_up_until_srat: bool = field(
        metadata=_behaviour(
            "the option makes allocation bottom-up until the SRAT is parsed",
            v5_10="setup_arch(), arch/x86/kernel/setup.c",
            v7_3="e820__memblock_setup(), arch/x86/kernel/e820.c",
            seed_2013="no patch of the set",
        )
    )
    revision_1_masks_pxm: bool = field(
        metadata=_behaviour("a revision 1 SRAT has 8 bits of proximity domain", **_AFFINITY)
    )
    block_zone: BlockZone = field(
        metadata=_behaviour(
            "the zone of a memory block comes",
            v5_10="test_pages_in_a_zone(), mm/memory_hotplug.c",
            v6_1="early_node_zone_for_memory_block(), drivers/base/memory.c",
        )
    )
    holes_on_first_node: bool = field(
        metadata=_behaviour(
            "a hole in a memory block counts as the first node's where that node's span covers the block",
            v5_10="get_nid_for_pfn(), drivers/base/node.c",
            v7_3="register_memory_blocks_under_node_early(), drivers/base/node.c",
        )
    )

    @property
    def version(self) -> tuple[int, int] | None:
        """Major and minor number a row is named after; None for a proposal."""
        return _version(self.name)


def _version(text: str) -> tuple[int, int] | None:
    match = re.match(r"v?(\d{1,4})\.(\d{1,4})(?![0-9])", text)
    return (int(match[1]), int(match[2])) if match else None


BEHAVIOURS: Mapping[str, Behaviour] = {
    each.name: each.metadata["behaviour"] for each in fields(KernelPolicy) if each.metadata
}
"""Field of `KernelPolicy` -> what it is about and where it was read."""


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
        flat_apic_limit: the first APIC ID the default (not x2APIC) driver refuses.
        hot_added_online: hot-added memory comes online by itself (CONFIG_MEMORY_HOTPLUG_DEFAULT_ONLINE,
            CONFIG_MHP_DEFAULT_ONLINE_TYPE_*; mm/memory_hotplug.c).
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
    flat_apic_limit: int
    hot_added_online: bool

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
    offline_node_data=OfflineNodeData.TRIED,
    node_data_elsewhere=True,
    unassigned_is_first_node=False,
    first_mib_reserved=True,
    kernel_reserves_marked=False,
    late_reserves_apart=False,
    nodes_need_pages=False,
    memory_map_after_zones=False,
    hotplug_option="movable_node",
    regions_have_flags=True,
    hotplug_marks=HotplugMarks.SRAT_HANDLER,
    kernel_exemption=KernelExemption.NODE,
    marks_survive_rejection=False,
    movable_past_node_end=False,
    pageless_movable_dropped=True,
    max_pfn_counts_acpi=False,
    overlap_rejects=True,
    holes_swallowed=True,
    allocator_skips_hotplug=True,
    movable_node_first=True,
    bottom_up_until_srat=True,
    revision_1_masks_pxm=True,
    block_zone=BlockZone.STORED,
    holes_on_first_node=True,
)

V5_10 = replace(
    V6_1,
    name="v5.10",
    source="Debian linux-source-5.10 5.10.223",
    first_mib_reserved=False,
    offline_node_data=OfflineNodeData.NONE,
    block_zone=BlockZone.SAMPLED,
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
    offline_node_data=OfflineNodeData.PANIC,
    nodes_need_pages=True,
    late_reserves_apart=True,
    max_pfn_counts_acpi=True,
    unassigned_is_first_node=True,
)

V7_3 = replace(
    V6_12,
    name="v7.3",
    source="Debian linux-source-7.3 7.3.4",
    mirror_cuts_zones=True,
    kernel_reserves_marked=True,
    late_reserves_apart=False,
    memory_map_after_zones=True,
    offline_node_data=OfflineNodeData.OR_PANIC,
    pageless_movable_dropped=False,
    holes_on_first_node=False,
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
"""Every row by name, versions in order."""
OLDEST = V5_10.name

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
    flat_apic_limit=255,
    hot_added_online=False,
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
_DEBIAN_CLOUD_6_12 = replace(
    _DEBIAN_CLOUD_6_1, brk_start=0x3C00000, image_end=0x3C30000, node_data=0x2A980, hot_added_online=True
)
_DEBIAN_CLOUD_7_3 = replace(
    _DEBIAN_CLOUD_6_12, brk_start=0x4200000, image_end=0x4230000, node_data=0x2B0C0, section_usage=88
)

BUILDS: Mapping[str, KernelBuild] = {
    V5_10.name: _DEBIAN_CLOUD_5_10,
    V6_1.name: _DEBIAN_CLOUD_6_1,
    V6_12.name: _DEBIAN_CLOUD_6_12,
    V7_3.name: _DEBIAN_CLOUD_7_3,
    SEED_2013.name: _DEBIAN_CLOUD_5_10,
}
"""The Debian cloud kernel behind each policy row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One behaviour in which two rows differ.

    Args:
        field: of `KernelPolicy`.
        title: the behaviour in words.
        before, after: the two values in words.
        source: where both were read: functions, files and rows.
    """

    field: str
    title: str
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        """One line: `ZONE_MOVABLE start rounding: PFN_DOWN -> PFN_UP  find_...(), mm/... (6.1) -> ...`."""
        return f"{self.title}: {self.before} -> {self.after}  {self.source}"


def policy_diff(old: KernelPolicy, new: KernelPolicy) -> list[Change]:
    """The behaviours in which two rows of `POLICIES` differ, in field order."""
    return [
        Change(
            field=name,
            title=behaviour.title,
            before=_words(getattr(old, name)),
            after=_words(getattr(new, name)),
            source=_sources(behaviour, old.name, new.name),
        )
        for name, behaviour in BEHAVIOURS.items()
        if getattr(old, name) != getattr(new, name)
    ]


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value.value if isinstance(value, Enum) else value)


def _sources(behaviour: Behaviour, old: str, new: str) -> str:
    (before, old), (after, new) = behaviour.source(old), behaviour.source(new)
    old, new = old.removeprefix("v"), new.removeprefix("v")
    if before == after:
        return f"{before} ({old}, {new})"
    function = before[: before.find(", ") + 2]
    return f"{before} ({old}) -> {after.removeprefix(function)} ({new})"


def nearest_policy(version: str) -> KernelPolicy:
    """The row for a kernel version: the one of that name, else the nearest at or below it.

    Whoever calls this says aloud which row it was, where its name is not `version`.

    Args:
        version: a row's name, or a version such as `6.6`, `v6.6.30` or `6.6.30-cloud-amd64`.

    Raises:
        UsageError: neither, or older than the oldest row.
    """
    if version in POLICIES:
        return POLICIES[version]
    known = ", ".join(POLICIES)
    if (wanted := _version(version)) is None:
        raise UsageError(f"{version!r} is no kernel version and no row of the model: use {known} or 6.6")
    rows = [(row.version, row) for row in POLICIES.values() if row.version is not None]
    below = [(at, row) for at, row in rows if at <= wanted]
    if not below:
        raise UsageError(f"Linux {version} is older than the oldest row of the model: use {known} or newer")
    return max(below, key=lambda pair: pair[0])[1]
