"""The catalogue of everything a check can say. Append only: an ID is never removed, renamed or reused.

`SRAT-*`, `SLIT-*` and `TABLE-*` judge one table, `MAP-*` tables against the machine's memory map, `POL-*`
what Linux makes of a case, `DIFF-*` two outcomes that should agree, `BOOT-*` how a real kernel fared,
`FUZZ-*` the fuzzing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from acpitk.checks.finding import Finding, Severity

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing a check can say.

    Args:
        id: stable name.
        severity: the usual severity; a finding may carry another where the context changes it.
        title: a few words.
        explanation: what happens and why.
        advice: what to do.
        mechanism: kernel function, file and version, or the ACPI 6.6 section.
    """

    id: str
    severity: Severity
    title: str
    explanation: str
    advice: str
    mechanism: str


_SRAT = "ACPI 6.6, 5.2.16 System Resource Affinity Table"
_MEMORY = "ACPI 6.6, 5.2.16.2 Memory Affinity Structure"
_SLIT = "ACPI 6.6, 5.2.17 System Locality Information Table"
_HEADER = "ACPI 6.6, 5.2.6 System Description Table Header"
_WALK = "acpi_parse_entries_array(), drivers/acpi/tables.c, Linux 6.1"
_MEMORY_INIT = "acpi_numa_memory_affinity_init(), drivers/acpi/numa/srat.c, Linux 6.1"
_CLEANUP = "numa_cleanup_meminfo(), arch/x86/mm/numa.c, Linux 6.1"
_COVER = "numa_meminfo_cover_memory(), arch/x86/mm/numa.c, and memmap_init(), mm/page_alloc.c, Linux 6.1"
_MOVABLE = "find_zone_movable_pfns_for_nodes(), mm/page_alloc.c, Linux 6.1"
_KERNEL_NODE = "numa_clear_kernel_node_hotplug(), arch/x86/mm/numa.c, Linux 6.1"
_SLIT_VALID = "slit_valid(), drivers/acpi/numa/srat.c, Linux 6.1"
_OFFLINE = "offline_pages(), mm/memory_hotplug.c, Linux 6.1"
_BLOCK_ZONE = "early_node_zone_for_memory_block(), drivers/base/memory.c, Linux 6.1"

_TABLE_RULES = (
    Rule(
        "TABLE-LENGTH",
        ERROR,
        "table length does not match its bytes",
        "The header's Length is not the number of bytes in the table. Readers trust Length, so they stop "
        "early or read what follows in memory.",
        "Set Length to the size of the table and recompute the checksum.",
        _HEADER,
    ),
    Rule(
        "TABLE-CHECKSUM",
        ERROR,
        "table checksum is wrong",
        "The bytes of the table do not sum to zero, so the table was changed after it was built.",
        "Recompute the checksum as the last step of building the table.",
        _HEADER,
    ),
    Rule(
        "TABLE-UNREADABLE",
        ERROR,
        "table too short to read",
        "The bytes end before the fixed part of the table does. Linux reads whatever follows in memory, "
        "or finds no entries.",
        "Supply the whole table.",
        _HEADER,
    ),
    Rule(
        "TABLE-DUPLICATE",
        WARNING,
        "several tables with one signature",
        "Linux uses the first table in XSDT order and ignores the others without a message.",
        "Keep one table, or check that the first one is the one you mean.",
        "acpi_get_table() instance 0, drivers/acpi/acpica/tbxface.c, Linux 6.1",
    ),
)

_SRAT_RULES = (
    Rule(
        "SRAT-LENGTH",
        ERROR,
        "SRAT length does not match its bytes",
        "The header's Length is not the number of bytes in the table. Linux walks Length bytes whatever "
        "is there, reserves that much RAM, and treats a table longer than 256 KiB as absent.",
        "Set Length to the size of the table and recompute the checksum.",
        f"{_HEADER}; acpi_reserve_initial_tables(), drivers/acpi/tables.c, Linux 6.1",
    ),
    Rule(
        "SRAT-CHECKSUM",
        ERROR,
        "SRAT checksum is wrong",
        "The bytes do not sum to zero. Linux uses the table all the same at boot, other systems may drop it.",
        "Recompute the checksum as the last step of building the table.",
        f"{_HEADER}; acpi_locate_initial_tables(), drivers/acpi/tables.c, Linux 6.1",
    ),
    Rule(
        "SRAT-REVISION",
        WARNING,
        "SRAT revision is not 1, 2 or 3",
        "The revision decides how wide a proximity domain is: Linux reads 8 bits up to revision 1 and 32 "
        "bits from 2 on. Revision 4 is newer than ACPI 6.6.",
        "Use revision 3, the one ACPI 6.6 defines.",
        f"{_SRAT}; {_MEMORY_INIT}",
    ),
    Rule(
        "SRAT-HEADER-RESERVED",
        NOTE,
        "reserved bytes of the SRAT header have other values",
        "The dword at byte 36 must be 1 and the eight bytes after it 0. Linux ignores both.",
        "Write 1 and 0.",
        _SRAT,
    ),
    Rule(
        "SRAT-ENTRY-TYPE",
        NOTE,
        "entry type unknown to ACPI 6.6",
        "Types 0 to 7 are defined. Linux skips others by their length, so whatever the entry describes is "
        "not used.",
        "Check the type, or ignore this where a newer specification defines it.",
        f"{_SRAT}; {_WALK}",
    ),
    Rule(
        "SRAT-ENTRY-ZERO",
        ERROR,
        "entry with length zero",
        "A zero length gives no way to the next entry. Linux stops there and throws the whole NUMA "
        "configuration away, also the memory entries before it; older boot code looped for ever.",
        "Give the entry its length, or cut the table before it.",
        _WALK,
    ),
    Rule(
        "SRAT-ENTRY-SHORT",
        ERROR,
        "entry shorter than its type",
        "The entry ends before its fields do, so reading it takes bytes of the next entry. Linux declares "
        "the whole SRAT bad for processor and memory entries, even disabled ones.",
        "Give the entry the length its type has.",
        f"{_SRAT}; {_MEMORY_INIT}",
    ),
    Rule(
        "SRAT-ENTRY-LONG",
        WARNING,
        "entry longer than its type",
        "The entry has bytes beyond its fields. Linux accepts that for memory and x2APIC entries, but a "
        "type 0 processor entry that is not exactly 16 bytes makes it drop the whole SRAT.",
        "Give the entry the length its type has.",
        f"{_SRAT}; acpi_numa_processor_affinity_init(), arch/x86/mm/srat.c, Linux 6.1",
    ),
    Rule(
        "SRAT-ENTRY-OVERRUN",
        ERROR,
        "entry reaches past the end of the table",
        "The declared length goes beyond the table. Linux does not check it and reads the rest of the "
        "entry from whatever follows in memory.",
        "Correct the length of the entry or of the table.",
        _WALK,
    ),
    Rule(
        "SRAT-TRAILING",
        WARNING,
        "bytes after the last entry",
        "The table goes on where no entry fits. Linux ignores a tail as short as an entry header and "
        "walks a longer one as if it were entries.",
        "Cut the table after its last entry.",
        _WALK,
    ),
    Rule(
        "SRAT-RESERVED",
        WARNING,
        "reserved field or flag is not zero",
        "Reserved bits must be zero so that later specifications can give them a meaning. Linux ignores "
        "them today.",
        "Write zero.",
        _SRAT,
    ),
    Rule(
        "SRAT-MEM-EMPTY",
        WARNING,
        "enabled memory entry of length zero",
        "The entry describes no memory. Linux adds no range for it, yet numbers its proximity domain, "
        "which can shift the node numbers of all later domains.",
        "Clear Enabled, or give the entry its length.",
        f"{_MEMORY}; numa_add_memblk_to(), arch/x86/mm/numa.c, Linux 6.1",
    ),
    Rule(
        "SRAT-MEM-WRAP",
        ERROR,
        "memory entry wraps past 2^64",
        "Base plus Length leaves the address space. Linux adds no range for it, but a hot-pluggable one "
        "still marks all RAM above its base, whatever node that belongs to.",
        "Correct Base Address or Length.",
        "memblock_mark_hotplug(), mm/memblock.c, Linux 6.1",
    ),
    Rule(
        "SRAT-MEM-PAGE",
        NOTE,
        "memory entry not aligned to a page",
        "Memory is managed in pages of 4 KiB. A page cut by an entry goes to one side or to none, and a "
        "sub-page hotplug start moves ZONE_MOVABLE by up to 4 MiB from Linux 6.12 on.",
        "Align the range to 4 KiB.",
        _MOVABLE,
    ),
    Rule(
        "SRAT-MEM-OVERLAP",
        ERROR,
        "memory of two proximity domains overlaps",
        "The same addresses belong to two domains. Where RAM lies there, Linux drops the whole NUMA "
        "configuration.",
        "Give every address one domain.",
        _CLEANUP,
    ),
    Rule(
        "SRAT-MEM-OVERLAP-SAME",
        WARNING,
        "memory entries of one proximity domain overlap",
        "Linux warns and merges them.",
        "Cut the entries so that they touch but do not overlap.",
        _CLEANUP,
    ),
    Rule(
        "SRAT-MEM-FLAGS",
        WARNING,
        "overlapping memory entries with different flags",
        "Two entries describe the same memory differently. Linux only ever sets the hotplug mark, so the "
        "hot-pluggable entry wins.",
        "Cut the entries so that each address has one set of flags.",
        "memblock_mark_hotplug(), mm/memblock.c, Linux 6.1",
    ),
    Rule(
        "SRAT-MEM-BLOCK",
        NOTE,
        "hot-pluggable range not aligned to memory blocks",
        "Linux removes memory in blocks of at least 128 MiB. A block that the range shares with other "
        "memory cannot be removed.",
        "Align the range to 128 MiB, or to 2 GiB where the machine has 64 GiB or more.",
        _OFFLINE,
    ),
    Rule(
        "SRAT-ALL-HOT",
        WARNING,
        "every memory entry is hot-pluggable",
        "The kernel has to live somewhere: Linux ignores the mark on every node that holds anything in "
        "use at boot, and under movable_node finds no room for the distance table, so the SLIT is "
        "dropped.",
        "Leave at least one range without the flag.",
        f"{_KERNEL_NODE}; numa_alloc_distance(), arch/x86/mm/numa.c, Linux 6.1",
    ),
    Rule(
        "SRAT-NO-MEMORY",
        WARNING,
        "no enabled memory entry",
        "Without one Linux has no NUMA configuration and puts everything in node 0.",
        "Describe all RAM, or leave the SRAT out.",
        "acpi_numa_init(), drivers/acpi/numa/srat.c, Linux 6.1",
    ),
    Rule(
        "SRAT-TOO-MANY",
        WARNING,
        "more than 2048 memory entries",
        "A kernel built for 1024 nodes takes 2048 non-empty memory entries and drops the whole SRAT at "
        "the next.",
        "Merge adjacent entries of one domain.",
        "numa_add_memblk_to(), arch/x86/mm/numa.c, Linux 6.1",
    ),
    Rule(
        "SRAT-TOO-BIG",
        ERROR,
        "SRAT longer than Linux can map",
        "At this stage of boot Linux maps at most 256 KiB. It treats a longer table as absent, with a "
        "warning in the log.",
        "Merge adjacent entries of one domain.",
        "early_memremap(), mm/early_ioremap.c, Linux 6.1",
    ),
    Rule(
        "SRAT-CPU-DUPLICATE",
        ERROR,
        "one processor in two proximity domains",
        "The same APIC ID is enabled in several domains. Linux takes the last without a message, so "
        "another node may end up without processors.",
        "Keep one entry for each processor.",
        "acpi_numa_processor_affinity_init(), arch/x86/mm/srat.c, Linux 6.1",
    ),
    Rule(
        "SRAT-X2APIC-ID",
        NOTE,
        "x2APIC entry for an ID that fits type 0",
        "IDs below 255 may use the processor entry, which every operating system reads.",
        "Nothing, unless old operating systems have to run.",
        "ACPI 6.6, 5.2.16.3 Processor Local x2APIC Affinity Structure",
    ),
    Rule(
        "SRAT-PXM-REVISION",
        ERROR,
        "proximity domain above 255 in a revision 1 table",
        "Up to revision 1 a domain is one byte. Linux masks the rest away, so two domains can become one "
        "node.",
        "Set the revision to 3.",
        _MEMORY_INIT,
    ),
    Rule(
        "SRAT-PXM-LIMIT",
        WARNING,
        "proximity domain beyond what Linux maps",
        "Linux maps domains below its node limit, 1024 in distribution kernels, and drops the whole SRAT "
        "at an enabled entry with a higher one.",
        "Number the domains from 0.",
        "acpi_map_pxm_to_node(), drivers/acpi/numa/srat.c, Linux 6.1",
    ),
    Rule(
        "SRAT-DOMAIN-GAP",
        NOTE,
        "proximity domains are not contiguous",
        "Numbers are missing between the domains in use. Linux numbers nodes in order of appearance, so "
        "node and domain numbers differ.",
        "Nothing, if the numbers are meant; otherwise number from 0.",
        "acpi_map_pxm_to_node(), drivers/acpi/numa/srat.c, Linux 6.1",
    ),
    Rule(
        "SRAT-HANDLE-TYPE",
        ERROR,
        "device handle type is neither ACPI nor PCI",
        "Handle types 0 (ACPI) and 1 (PCI) are defined; with another the device cannot be identified.",
        "Use 0 or 1.",
        "ACPI 6.6, 5.2.16.6 Generic Initiator Affinity Structure",
    ),
    Rule(
        "SRAT-GI-DISABLED",
        WARNING,
        "disabled generic initiator before processor entries",
        "Linux treats a disabled generic initiator as an error and reads no further processor entries, so "
        "those processors lose their node and nodes are numbered by the memory entries.",
        "Leave the entry out, or put it last.",
        "acpi_parse_gi_affinity(), drivers/acpi/numa/srat.c, Linux 6.1",
    ),
)

_SLIT_RULES = (
    Rule(
        "SLIT-LENGTH",
        ERROR,
        "SLIT length does not match its bytes",
        "The header's Length is not the number of bytes in the table.",
        "Set Length to the size of the table and recompute the checksum.",
        _HEADER,
    ),
    Rule(
        "SLIT-CHECKSUM",
        ERROR,
        "SLIT checksum is wrong",
        "The bytes do not sum to zero. Linux uses the table all the same at boot, other systems may drop it.",
        "Recompute the checksum as the last step of building the table.",
        _HEADER,
    ),
    Rule(
        "SLIT-REVISION",
        WARNING,
        "SLIT revision is not 1",
        "Only revision 1 is defined. Linux does not look.",
        "Use revision 1.",
        _SLIT,
    ),
    Rule(
        "SLIT-COUNT",
        ERROR,
        "locality count does not match the matrix",
        "The table does not hold count x count bytes. Linux never compares them: it reads past the end "
        "and usually finds the result invalid.",
        "Set Number of System Localities to the rows the table has.",
        _SLIT_VALID,
    ),
    Rule(
        "SLIT-TRAILING",
        WARNING,
        "bytes after the matrix",
        "The table is longer than count x count bytes. The rest is ignored.",
        "Correct the count, or cut the table.",
        _SLIT,
    ),
    Rule(
        "SLIT-DIAGONAL",
        ERROR,
        "distance of a locality to itself is not 10",
        "The diagonal is 10 by definition. Linux drops the whole SLIT.",
        "Write 10.",
        f"{_SLIT}; {_SLIT_VALID}",
    ),
    Rule(
        "SLIT-DISTANCE",
        ERROR,
        "reserved distance below 10",
        "Values 0 to 9 have no meaning. Linux drops the whole SLIT.",
        "Write a distance above 10, or 255 for unreachable.",
        f"{_SLIT}; {_SLIT_VALID}",
    ),
    Rule(
        "SLIT-REMOTE",
        WARNING,
        "two localities as close as one to itself",
        "A distance of 10 off the diagonal says that remote memory is local. Linux drops the whole SLIT.",
        "Write a distance above 10.",
        _SLIT_VALID,
    ),
    Rule(
        "SLIT-ASYMMETRIC",
        NOTE,
        "distances differ by direction",
        "The way there and the way back have different distances. ACPI allows it and Linux takes it as it "
        "is.",
        "Check that it is meant.",
        _SLIT,
    ),
    Rule(
        "SLIT-UNREACHABLE",
        NOTE,
        "localities that cannot reach each other",
        "255 says unreachable. Linux accepts it as a very long distance.",
        "Check that it is meant.",
        _SLIT,
    ),
    Rule(
        "SLIT-DOMAIN-MISSING",
        WARNING,
        "SRAT domain without a SLIT row",
        "A proximity domain is not below the locality count, so it has no distances and Linux uses 10 and "
        "20.",
        "Add rows for every proximity domain.",
        f"{_SLIT}; acpi_numa_slit_init(), drivers/acpi/numa/srat.c, Linux 6.1",
    ),
    Rule(
        "SLIT-DOMAIN-EXTRA",
        NOTE,
        "SLIT row without an SRAT domain",
        "The SLIT has more localities than the SRAT has enabled domains. Linux ignores the rows, but a "
        "bad value in one of them still drops the whole SLIT.",
        "Nothing, where sockets may be empty.",
        _SLIT_VALID,
    ),
)

_MAP_RULES = (
    Rule(
        "MAP-UNCOVERED",
        ERROR,
        "RAM without a memory entry",
        "The memory map has RAM that no enabled entry describes. From 1 MiB on Linux drops the whole NUMA "
        "configuration; between one page and that it panics while it sets up the memory map.",
        "Describe all RAM of the e820 map, low memory included.",
        _COVER,
    ),
    Rule(
        "MAP-SWALLOWED",
        WARNING,
        "undescribed RAM between two entries of one domain",
        "No entry describes the RAM, but entries of one domain lie on both sides, and Linux takes "
        "everything between them into that node.",
        "Describe the RAM.",
        _CLEANUP,
    ),
    Rule(
        "MAP-NO-RAM",
        NOTE,
        "memory entry with no RAM behind it",
        "Nothing in the memory map lies in the range. Firmware describes room for hot-added memory that "
        "way; Linux makes the node possible but memoryless.",
        "Nothing, if the range is meant for memory added later.",
        _CLEANUP,
    ),
)

_POLICY_RULES = (
    Rule(
        "POL-KERNEL-NODE",
        WARNING,
        "hotplug flag lost: the kernel resides on the node",
        "Something reserved before NUMA set-up lies in the node, so Linux clears the hotplug mark of the "
        "whole node, other ranges included. Any reserved byte counts, not only the kernel image.",
        "Keep what is named here out of the node, or split the node into two proximity domains.",
        _KERNEL_NODE,
    ),
    Rule(
        "POL-NODE-DATA",
        WARNING,
        "node descriptor in hot-pluggable memory",
        "The pg_data_t of a node sits in memory that firmware calls hot-pluggable and cannot move, so its "
        "memory block stays.",
        "Boot with movable_node, and leave memory without the flag on some node.",
        "alloc_node_data(), arch/x86/mm/numa.c, Linux 6.1",
    ),
    Rule(
        "POL-EARLY-ALLOC",
        WARNING,
        "early allocation in hot-pluggable memory",
        "A boot-time allocation landed in memory that firmware calls hot-pluggable. Boot-time allocations "
        "never move, so the memory block stays.",
        "Boot with movable_node, and leave enough memory without the flag.",
        "should_skip_region(), mm/memblock.c, Linux 6.1",
    ),
    Rule(
        "POL-ALLOC-MOVABLE",
        WARNING,
        "boot allocation in ZONE_MOVABLE",
        "Memory above the movable start of a node belongs to ZONE_MOVABLE, but boot allocations took some "
        "of it and never move, so their memory blocks stay.",
        "Make the whole node hot-pluggable, or put the hot range above the rest of the node.",
        "should_skip_region(), mm/memblock.c, Linux 6.1",
    ),
    Rule(
        "POL-HOT-NOT-MOVABLE",
        WARNING,
        "hot-pluggable memory outside ZONE_MOVABLE",
        "The start of ZONE_MOVABLE is rounded up to 4 MiB; what lies below is used by the kernel, and "
        "where the rounded start is past the end of the node there is no ZONE_MOVABLE at all.",
        "Align hot-pluggable ranges to memory blocks.",
        _MOVABLE,
    ),
    Rule(
        "POL-SWEPT",
        WARNING,
        "memory without the flag in ZONE_MOVABLE",
        "Only the lowest hot-pluggable address of a node counts: everything above it becomes "
        "ZONE_MOVABLE, so the kernel loses memory that firmware left to it.",
        "Put hot-pluggable ranges above the rest of the node, or in their own proximity domain.",
        _MOVABLE,
    ),
    Rule(
        "POL-KERNEL-MEMORY",
        WARNING,
        "too little memory left for the kernel",
        "Memory outside ZONE_MOVABLE has to hold the kernel, the page structures of all memory (1/64 of "
        "it) and every unmovable allocation. Below that and 128 MiB the boot ends out of memory or nearly "
        "so.",
        "Leave more memory without the Hot Pluggable flag.",
        "memblock_alloc_internal(), mm/memblock.c, Linux 6.1",
    ),
    Rule(
        "POL-MOVABLE-RATIO",
        NOTE,
        "more than four times as much movable as kernel memory",
        "Page tables and other unmovable data have to fit the kernel zones, which fill up first when "
        "ZONE_MOVABLE is more than three or four times larger.",
        "Leave more memory without the Hot Pluggable flag.",
        "Documentation/admin-guide/mm/memory-hotplug.rst, ZONE_MOVABLE Sizing Considerations",
    ),
    Rule(
        "POL-NUMA-REJECTED",
        ERROR,
        "whole NUMA configuration rejected",
        "One fault makes Linux drop the SRAT and put all memory in node 0. All hotplug marks are gone, so "
        "nothing becomes ZONE_MOVABLE.",
        "Correct what is named here.",
        "numa_init(), arch/x86/mm/numa.c, Linux 6.1",
    ),
    Rule(
        "POL-ENTRY-IGNORED",
        NOTE,
        "memory entry without effect",
        "Linux takes no memory from the entry and says little or nothing about it.",
        "Correct the entry, unless it is meant for memory added later.",
        "numa_add_memblk_to() and numa_cleanup_meminfo(), arch/x86/mm/numa.c, Linux 6.1",
    ),
    Rule(
        "POL-PXM-MASKED",
        ERROR,
        "proximity domain truncated to 8 bits",
        "In a revision 1 table Linux reads one byte of the domain, so the entry joins another domain's node.",
        "Set the SRAT revision to 3.",
        _MEMORY_INIT,
    ),
    Rule(
        "POL-NODE-ORDER",
        NOTE,
        "nodes numbered in another order than domains",
        "A domain gets the lowest free node number when it first appears: processor and initiator entries "
        "in table order, then memory entries.",
        "Order the entries by proximity domain.",
        "acpi_map_pxm_to_node(), drivers/acpi/numa/srat.c, Linux 6.1",
    ),
    Rule(
        "POL-SLIT-IGNORED",
        WARNING,
        "SLIT not used",
        "All distances become 10 and 20. Linux drops the table for one bad byte, and under movable_node "
        "also where no memory without the hotplug flag is free for the distance table.",
        "Correct the matrix, or leave memory without the flag.",
        f"{_SLIT_VALID}; numa_alloc_distance(), arch/x86/mm/numa.c, Linux 6.1",
    ),
    Rule(
        "POL-SLIT-ASYMMETRIC",
        NOTE,
        "node distances differ by direction",
        "Linux takes an asymmetric SLIT as it is.",
        "Check that it is meant.",
        "acpi_numa_slit_init(), drivers/acpi/numa/srat.c, Linux 6.1",
    ),
    Rule(
        "POL-BLOCK-STRADDLE",
        WARNING,
        "hot-pluggable range shares a memory block",
        "Memory is removed in whole blocks. A block with memory of two nodes or two zones has no zone and "
        "can never be offlined.",
        "Align the range to the memory block size.",
        _BLOCK_ZONE,
    ),
    Rule(
        "POL-NOT-REMOVABLE",
        WARNING,
        "memory block in ZONE_MOVABLE that cannot be removed",
        "The zone alone does not make a block removable: holes and boot allocations in it make offlining "
        "fail.",
        "Move what is named here out of the block, or align the range so that the block is whole.",
        _OFFLINE,
    ),
    Rule(
        "POL-BEYOND-RAM",
        NOTE,
        "hot-pluggable range reaches beyond RAM",
        "The part above the last RAM is kept for memory added later and has no effect now.",
        "Nothing, if memory can be added there.",
        _CLEANUP,
    ),
    Rule(
        "POL-SWIOTLB",
        WARNING,
        "range above 4 GiB costs low memory",
        "A memory entry above 4 GiB raises max_possible_pfn. Linux then sets up a bounce buffer of 64 MiB "
        "in low memory, though no RAM needs it.",
        "Describe ranges above 4 GiB only where memory can be added, or boot with swiotlb=noforce.",
        "pci_swiotlb_detect(), arch/x86/kernel/pci-dma.c, Linux 6.1",
    ),
    Rule(
        "POL-MEMORYLESS",
        NOTE,
        "node without memory",
        "The domain got a node number, but no RAM came with it.",
        "Nothing, if memory can be added there.",
        _CLEANUP,
    ),
    Rule(
        "POL-WRAPPED-MARK",
        ERROR,
        "wrapped entry marks memory of others",
        "An entry that wraps past 2^64 adds no memory, yet its length is clamped, not wrapped, when the "
        "hotplug mark is set: all RAM above its base becomes hot-pluggable.",
        "Correct Base Address or Length.",
        "memblock_mark_hotplug(), mm/memblock.c, Linux 6.1",
    ),
    Rule(
        "POL-PANIC",
        ERROR,
        "kernel panic",
        "The kernel does not survive these tables.",
        "Correct what the other findings of the case name; a kernel should not die of a table.",
        "see the message",
    ),
    Rule(
        "POL-NOTHING-MOVABLE",
        WARNING,
        "movable_node without any ZONE_MOVABLE",
        "The option reserves ZONE_MOVABLE for hot-pluggable memory, and none is left.",
        "See the cause; without hot-pluggable memory use movablecore= instead of movable_node.",
        _MOVABLE,
    ),
    Rule(
        "POL-CORE-IGNORED",
        WARNING,
        "kernelcore= or movablecore= ignored",
        "movable_node takes precedence, even where not a single range is hot-pluggable.",
        "Use one of the two.",
        _MOVABLE,
    ),
    Rule(
        "POL-OPTION-OFF",
        NOTE,
        "hot-pluggable memory without movable_node",
        "Without the option the mark has no effect on zones or allocations, so boot memory can land "
        "anywhere in it.",
        "Boot with movable_node to keep the memory removable.",
        _MOVABLE,
    ),
    Rule(
        "POL-ALL-HOT",
        WARNING,
        "all RAM is hot-pluggable",
        "The kernel has to live somewhere: the nodes it resides on lose the mark, and under movable_node "
        "there is no room for anything allocated before that.",
        "Leave at least one range without the flag.",
        _KERNEL_NODE,
    ),
    Rule(
        "POL-ADOPTED-RAM",
        WARNING,
        "undescribed RAM taken into a node",
        "No accepted entry describes the RAM. It lies between two ranges of one node and Linux swallows "
        "the hole.",
        "Describe the RAM.",
        _CLEANUP,
    ),
    Rule(
        "POL-NODE-OFFLINE",
        ERROR,
        "node with memory stays offline",
        "No memory was left for the node's pg_data_t, so the node and all its memory are not used.",
        "Leave more memory without the Hot Pluggable flag.",
        "alloc_node_data(), arch/x86/mm/numa.c, Linux 6.1",
    ),
    Rule(
        "POL-OVERLAP-FLAGS",
        WARNING,
        "overlapping entries disagree about hotplug",
        "The mark is only ever set, so the memory that both describe is hot-pluggable.",
        "Cut the entries so that each address has one set of flags.",
        "memblock_mark_hotplug(), mm/memblock.c, Linux 6.1",
    ),
)


def _difference(field: str, title: str) -> Rule:
    return Rule(
        f"DIFF-{field}",
        ERROR,
        f"{title} differ",
        "Two ways to the same boot disagree. Model against kernel: the model is wrong until shown "
        "otherwise. Kernel against kernel: the tables mean different things to them.",
        "Replay the case on the kernel, and compare the console log with the source.",
        "acpitk compares the two outcomes field by field",
    )


_DIFFERENCE_RULES = (
    _difference("NUMA", "NUMA states"),
    _difference("NUMA-REASON", "reasons for the NUMA state"),
    _difference("PXM", "maps from proximity domain to node"),
    _difference("MEMORY", "memory regions, their nodes or hotplug marks"),
    _difference("RESERVED", "reserved regions"),
    _difference("NODE-DATA", "places of node descriptors"),
    _difference("DISTANCES", "node distances"),
    _difference("ZONE-MOVABLE", "starts of ZONE_MOVABLE"),
    _difference("ZONES", "zones"),
    _difference("BLOCKS", "memory blocks"),
    _difference("PANIC", "survival"),
    _difference("ALLOCATIONS", "addresses of boot-time allocations"),
)

_FUZZ_RULES = (
    Rule(
        "FUZZ-ORACLE-ERROR",
        ERROR,
        "an oracle failed instead of judging the case",
        "Reading, modelling, compiling or booting the case ended in an error of acpitk or of the tool it "
        "ran.",
        "Replay the case; fix the oracle, or what it runs.",
        "acpitk's own code, at the place named",
    ),
)


def _iasl(verdict: str, severity: Severity, title: str) -> Rule:
    return Rule(
        f"IASL-{verdict}",
        severity,
        title,
        "The table went through iasl and did not come back as it was. iasl is one reader among several, "
        "and a loss is silent unless bytes are compared.",
        "Report it to ACPICA, or compare with another release of iasl.",
        "AcpiDmDumpSrat(), DtCompileSrat() and their SLIT counterparts, ACPICA source/common, "
        "source/compiler",
    )


_IASL_RULES = (
    _iasl("DIFFERS", NOTE, "iasl changes the table"),
    _iasl("REJECTED", NOTE, "iasl rejects the table"),
    _iasl("FLOODED", WARNING, "iasl writes without end"),
    _iasl("HUNG", WARNING, "iasl does not end"),
    _iasl("CRASHED", WARNING, "iasl crashes"),
)


def _boot(name: str, severity: Severity, title: str, explanation: str) -> Rule:
    return Rule(
        f"BOOT-{name}",
        severity,
        title,
        explanation,
        "Export the finding (acpitk replay FINDING --export DIR) and report it; meanwhile correct the table.",
        "the call trace on the console",
    )


_BOOT_RULES = (
    _boot(
        "PANIC",
        ERROR,
        "a real kernel panics",
        "A booted kernel gave up with a panic of its own wording. The signature is that message without "
        "numbers.",
    ),
    _boot(
        "OOPS",
        ERROR,
        "a real kernel faults",
        "A booted kernel took an exception in its own code and died. The signature is the kind of exception "
        "and the function at the top of the call trace that is not a helper.",
    ),
    _boot(
        "WARN",
        WARNING,
        "a real kernel warns",
        "A booted kernel printed a WARNING with a call trace and lived. The signature is the function.",
    ),
    _boot(
        "HANG",
        ERROR,
        "a real kernel hangs",
        "A booted kernel printed nothing more until time ran out. The signature is its last message.",
    ),
    _boot(
        "RESET",
        ERROR,
        "a real kernel resets the machine",
        "The guest ended without a panic message: a triple fault, or a reboot. The signature is the last "
        "message.",
    ),
    Rule(
        "BOOT-EARLY-ALLOC",
        ERROR,
        "a real kernel allocates in hot-pluggable memory",
        "Under movable_node a booted kernel took memory that the SRAT calls hot-pluggable, on a node where "
        "nothing had been placed before. What it takes at boot never moves, so the memory stays. The "
        "signature is the function that asked for it, or that it was before the ACPI tables are read.",
        "Export the finding (acpitk replay FINDING --export DIR) and report it.",
        "__memblock_find_range_bottom_up(), should_skip_region(), mm/memblock.c, Linux 6.1",
    ),
)

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        rule.id: rule
        for rules in (
            _TABLE_RULES,
            _SRAT_RULES,
            _SLIT_RULES,
            _MAP_RULES,
            _POLICY_RULES,
            _DIFFERENCE_RULES,
            _FUZZ_RULES,
            _IASL_RULES,
            _BOOT_RULES,
        )
        for rule in rules
    }
)
"""Every rule by ID."""


def finding(
    rule_id: str,
    *,
    where: str,
    expected: str,
    actual: str,
    offset: int | None = None,
    cause: str = "",
    severity: Severity | None = None,
    advice: str = "",
    kernels: tuple[str, ...] = (),
) -> Finding:
    """A `Finding` of rule `rule_id`, with the rule's severity, advice and mechanism unless given."""
    rule = RULES[rule_id]
    return Finding(
        id=rule_id,
        severity=severity or rule.severity,
        where=where,
        offset=offset,
        expected=expected,
        actual=actual,
        advice=advice or rule.advice,
        mechanism=rule.mechanism,
        cause=cause,
        kernels=kernels,
    )
