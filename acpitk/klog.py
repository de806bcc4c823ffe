"""Console text of a booting kernel -> `Outcome` and the facts of the machine it ran on.

Every message acpitk understands is one row: a pattern and what it means. Wordings of 5.10, 6.1, 6.12 and 7.3
are covered (lib/fw_table.c of newer kernels prints some without the `ACPI: ` prefix). A console may repeat
lines, since the boot console and the real console both print: the first counts. It may also stop anywhere:
what was not printed in full is not observed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from acpitk.outcome import NodeData, NumaReason, NumaState, Outcome, Region

_TIME = re.compile(r"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? ?")
_LINE_MAX = 1024
"""Characters of a line that are looked at; printk's own limit is 1024 (LOG_LINE_MAX)."""

DIED = re.compile(
    rb"Kernel panic - not syncing|PANIC: (?:early exception|double fault)"
    rb"|^(?:\[[^]\n]*\] )?(?:BUG: (?:kernel NULL|unable to handle)|Oops: |general protection fault)",
    re.MULTILINE,
)
"""Console bytes after which the kernel will not reach any marker."""
DEAD = re.compile(rb"---\[ end Kernel panic|^PANIC: early exception [^\n]*\n", re.MULTILINE)
"""Console bytes after which nothing more is worth waiting for."""

_PANICS = (
    re.compile(r"(Kernel panic - not syncing: .*)"),
    re.compile(r"(BUG: kernel NULL pointer dereference)"),
    re.compile(r"(BUG: unable to handle page fault)"),
    re.compile(r"(kernel BUG at [\w./-]+)"),
    re.compile(r"(general protection fault\b[^:,]*)"),
    re.compile(r"(divide error)|(invalid opcode)|(stack segment)"),
    re.compile(r"(PANIC: early exception 0x[0-9a-f]+)"),
    re.compile(r"(PANIC: double fault)"),
)
"""The first words of a dying kernel, without addresses."""
_RIP = re.compile(r"RIP: (?:\w+:)?(\w[\w.]*)\+0x")

_NUMA_DECISIONS: tuple[tuple[re.Pattern[str], NumaReason], ...] = (
    (re.compile(r"NUMA turned off"), NumaReason.TURNED_OFF),
    (re.compile(r"(?:ACPI: )?\[SRAT:0x01\] Invalid zero length"), NumaReason.ZERO_LENGTH),
    (re.compile(r"(?:ACPI: )?SRAT: SRAT not used\."), NumaReason.BAD_SRAT),
    (re.compile(r"(?:NUMA: )?node \d+ \[mem [^]]*\] overlaps with node \d+"), NumaReason.OVERLAP),
    (re.compile(r"NUMA: (?:nodes only cover \d+MB|no nodes coverage for )"), NumaReason.COVERAGE),
)
"""What made numa_init() give up; the first one printed decides."""
_FELL_BACK = re.compile(r"No NUMA configuration found|NUMA turned off|Faking a node at ")

_MESSAGES = re.compile(
    r"(?:ACPI: )?(?:SRAT: |SLIT(?: table|:)|\[SRAT:|\[CEDT:|CEDT:|Found unsupported)"
    r"|ACPI NUMA: |NUMA: |NUMA turned off|No NUMA config|Faking a node"
    r"|(?:Warning: )?node \d+ \[mem|Warning: (?:invalid memblk|can't allocate dist|invalid dist|node ids)"
    r"|too many memblk ranges|invalid memblk|Cannot find \d+ bytes|Node alignment "
    r"|Initializing node \d+ as memoryless|Initmem setup node \d+ as memoryless|Could not find start_pfn"
    r"|This configuration results in unmirrored|The system (?:has no mirror|is under kdump)"
    r"|memblock: bottom-up|WARNING: |System is deadlocked"
)
"""Lines kept as `Outcome.messages`."""

_MEMBLOCK_DUMP = "MEMBLOCK configuration:"
_COUNT = re.compile(r" (memory|reserved)\.cnt +(?:=|:) 0x([0-9a-f]+)")
_REGION = re.compile(
    r" (memory|reserved)\[0x([0-9a-f]+)\]\s+\[(?:mem )?0x([0-9a-f]+)-0x([0-9a-f]+)\], 0x[0-9a-f]+ bytes"
    r"(?: on node (\d+))? flags: 0x([0-9a-f]+)"
)
_FLAGS = (
    "hotplug", "mirror", "nomap", "driver_managed", "rsrv_noinit", "rsrv_kern", "kho_scratch", "rsrv_hugetlb",
)  # fmt: skip
"""memblock flag bits, MEMBLOCK_* of include/linux/memblock.h in lower case."""

_CPU_PXM = re.compile(r"(?:ACPI: )?SRAT: PXM (\d+) -> APIC 0x[0-9a-f]+ -> Node (\d+)")
_MEMORY_PXM = re.compile(r"(?:ACPI: )?SRAT: Node (\d+) PXM (\d+) \[mem ")
_NODE_DATA = re.compile(r"NODE_DATA\((\d+)\) allocated \[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\]")
_NODE_DATA_ON = re.compile(r" *NODE_DATA\((\d+)\) on node (\d+)")
_MOVABLE_HEAD = "Movable zone start for each node"
_MOVABLE_START = re.compile(r"  Node (\d+): 0x([0-9a-f]+)")
_MOVABLE_END = "Early memory node ranges"

_E820 = re.compile(r"BIOS-e820: \[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\] +(.+)")
_E820_WORDS = {
    "System RAM": "usable",
    "device reserved": "reserved",
    "persistent (type 7)": "persistent",
    "persistent (type 12)": "persistent",
}
"""Words of 7.3 and of e820_print_type() that `machine.E820Type` has under another name."""
_ACPI_TABLE = re.compile(r"ACPI: ([A-Z0-9_]{4}) 0x([0-9A-F]{16}) ([0-9A-F]{6,8})(?: |$)")
_MAX_MAPPING = 256 << 10
"""A longer table, or one of length 0, is not mapped this early and counts as absent (early_memremap())."""
_MADT_FAILED = re.compile(r"ACPI: Invalid BIOS MADT, disabling ACPI")
_BANNER = re.compile(r"Linux version (\S+)")
_NR_NODE_IDS = re.compile(r"setup_percpu: .* nr_node_ids:(\d+)")
_TRACE = re.compile(
    r"_{0,2}memblock_(reserve|add|remove|free|phys_free): \[0x([0-9a-f]+)-0x([0-9a-f]+)\].* (\S+)$"
)
_REQUEST = re.compile(
    r"(memblock_(?:phys_)?alloc\w*): (\d+) bytes align=0x([0-9a-f]+) (?:nid=(-?\d+) )?"
    r"from=0x([0-9a-f]+) max_addr=0x([0-9a-f]+) (\S+)$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcpiTable:
    """An ACPI table the kernel listed: signature, physical address, length in bytes."""

    signature: str
    address: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareFacts:
    """The machine as the kernel found it.

    Args:
        release: the kernel's release, None where the banner is missing.
        e820: the firmware memory map: start, end (exclusive) and type in the words of `E820Type`.
        acpi_tables: every table listed, RSDP and RSDT or XSDT included, in log order.
        reserved: memblock.reserved right after the e820 map became memblock (the first dump), or None.
        memory: memblock.memory at that moment, or None.
        nr_node_ids: highest possible node plus one, where setup_percpu() printed it.
    """

    release: str | None
    e820: tuple[tuple[int, int, str], ...]
    acpi_tables: tuple[AcpiTable, ...]
    memory: tuple[Region, ...] | None
    reserved: tuple[Region, ...] | None
    nr_node_ids: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemblockCall:
    """One line of `memblock=debug`.

    Args:
        call: `reserve`, `add`, `remove`, `free`, or the allocating function (a request; where it is met the
            reservation follows).
        start, end: bytes; for a request the bounds asked for, `end` 0 or 1 is no bound.
        size, align: bytes, requests only.
        nid: node asked for, None where any or not printed.
        caller: the kernel function, without offset.
    """

    call: str
    start: int
    end: int
    size: int
    align: int
    nid: int | None
    caller: str


def lines(console: str) -> list[str]:
    """The console's complete lines without timestamps; a last line without its end is dropped."""
    whole, _, _ = console.replace("\r\n", "\n").rpartition("\n")
    out = []
    for line in whole.split("\n"):
        stamp = _TIME.match(line, 0, 64)
        out.append(line[stamp.end() if stamp else 0 :][:_LINE_MAX].rstrip("\r"))
    return out


def parse(console: str, *, kernel: str, ended: str) -> Outcome:
    """What the console says of the boot.

    Args:
        console: text as the serial port gave it.
        kernel: the kernel's name, kept as is.
        ended: how the boot ended, a `qemu.runner.BootEnd`: a boot that printed no panic but was seen to
            exit, hang or stay silent has that as its `panic`.
    """
    log = lines(console)
    decided = next((d for line in log if (d := _decision(line)) is not None), None)
    dump = next((d for d in _dumps(log) if any(region.nid is not None for region in d.memory)), None)
    fell_back = any(_FELL_BACK.match(line) for line in log)
    out = Outcome(
        source="boot",
        kernel=kernel,
        pxm_to_node=_pxm_to_node(log),
        zone_movable_start=_zone_movable_start(log),
        panic=_panic(log, ended),
        messages=tuple(dict.fromkeys(line.strip() for line in log if _MESSAGES.match(line))),
    )
    if decided is NumaReason.TURNED_OFF:
        out = replace(out, numa=NumaState.OFF, numa_reason=decided)
    elif fell_back:
        out = replace(out, numa=NumaState.DUMMY, numa_reason=decided or _silent_reason(log))
    elif dump is not None:
        out = replace(out, numa=NumaState.SRAT, numa_reason=NumaReason.ACCEPTED)
    if dump is not None:
        reserved = tuple(region._replace(flags=()) for region in dump.reserved)
        out = replace(out, memory=dump.memory, reserved=reserved, node_data=_node_data(log, dump.memory))
    return out


def firmware_facts(console: str) -> FirmwareFacts:
    """The memory map, the ACPI tables and the first memblock dump. Linear in the console's length."""
    log = lines(console)
    e820: dict[tuple[int, int, str], None] = {}
    tables: dict[AcpiTable, None] = {}
    for line in log:
        if match := _E820.match(line):
            e820[int(match[1], 16), int(match[2], 16) + 1, _E820_WORDS.get(match[3], match[3])] = None
        elif match := _ACPI_TABLE.match(line):
            table = AcpiTable(signature=match[1], address=int(match[2], 16), length=int(match[3], 16))
            tables[table] = None
    first = next(_dumps(log), None)
    banner = next((match for line in log if (match := _BANNER.match(line))), None)
    nodes = next((match for line in log if (match := _NR_NODE_IDS.match(line))), None)
    return FirmwareFacts(
        release=banner[1] if banner else None,
        e820=tuple(e820),
        acpi_tables=tuple(tables),
        memory=first.memory if first else None,
        reserved=first.reserved if first else None,
        nr_node_ids=int(nodes[1]) if nodes else None,
    )


def memblock_trace(console: str) -> tuple[MemblockCall, ...]:
    """Every reservation, release and allocation request `memblock=debug` printed, in order."""
    calls = []
    for line in lines(console):
        if match := _TRACE.match(line):
            call, start, end = match[1].removeprefix("phys_"), int(match[2], 16), int(match[3], 16) + 1
            size = align = 0
            nid = None
        elif match := _REQUEST.match(line):
            call, start, end = match[1], int(match[5], 16), int(match[6], 16)
            size, align = int(match[2]), int(match[3], 16)
            nid = int(match[4]) if match[4] and match[4] != "-1" else None
        else:
            continue
        caller = match[match.lastindex or 0].partition("+")[0]
        calls.append(
            MemblockCall(call=call, start=start, end=end, size=size, align=align, nid=nid, caller=caller)
        )
    return tuple(calls)


@dataclass(frozen=True, slots=True)
class _Dump:
    memory: tuple[Region, ...]
    reserved: tuple[Region, ...]


def _dumps(log: list[str]) -> Iterator[_Dump]:
    """The complete memblock dumps, in order; one that is cut off is left out."""
    counts: dict[str, int] = {}
    rows: dict[str, dict[int, Region]] = {}
    for line in log:
        if line == _MEMBLOCK_DUMP:
            counts, rows = {}, {"memory": {}, "reserved": {}}
        elif rows and (match := _COUNT.match(line)):
            counts[match[1]] = int(match[2], 16)
        elif rows and (match := _REGION.match(line)):
            start, end, flags = int(match[3], 16), int(match[4], 16) + 1, int(match[6], 16)
            nid = int(match[5]) if match[5] else None
            words = tuple(word for bit, word in enumerate(_FLAGS) if flags >> bit & 1)
            rows[match[1]].setdefault(int(match[2], 16), Region(start, end, nid, words))
            if counts == {kind: len(found) for kind, found in rows.items()}:
                memory, reserved = (tuple(found[i] for i in sorted(found)) for found in rows.values())
                yield _Dump(memory, reserved)
                rows = {}


def _decision(line: str) -> NumaReason | None:
    return next((reason for pattern, reason in _NUMA_DECISIONS if pattern.match(line)), None)


def _silent_reason(log: list[str]) -> NumaReason:
    """Why the SRAT gave nothing although nothing complained (acpi_numa_init, -ENOENT; numa_setup)."""
    cmdline = next((line for line in log if line.startswith("Command line: ")), "")
    if "numa=noacpi" in cmdline.split():
        return NumaReason.TURNED_OFF
    if any(_MADT_FAILED.match(line) for line in log):
        return NumaReason.NO_SRAT
    tables = (match for line in log if (match := _ACPI_TABLE.match(line)))
    mapped = any(match[1] == "SRAT" and 0 < int(match[3], 16) <= _MAX_MAPPING for match in tables)
    return NumaReason.NO_MEMORY_AFFINITY if mapped else NumaReason.NO_SRAT


def _pxm_to_node(log: list[str]) -> dict[int, int]:
    """Proximity domains printed with their node; the first line of a domain counts."""
    out: dict[int, int] = {}
    for line in log:
        if match := _CPU_PXM.match(line):
            out.setdefault(int(match[1]), int(match[2]))
        elif match := _MEMORY_PXM.match(line):
            out.setdefault(int(match[2]), int(match[1]))
    return out


def _node_data(log: list[str], memory: tuple[Region, ...]) -> tuple[NodeData, ...]:
    """Every NODE_DATA line. On its own node unless the next line says otherwise (alloc_node_data)."""
    spans: dict[int, tuple[int, int]] = {}
    elsewhere: dict[int, int] = {}
    for line in log:
        if line == _MEMBLOCK_DUMP and spans:
            break
        if match := _NODE_DATA.match(line):
            spans.setdefault(int(match[1]), (int(match[2], 16), int(match[3], 16) + 1))
        elif match := _NODE_DATA_ON.match(line):
            elsewhere.setdefault(int(match[1]), int(match[2]))
    return tuple(
        NodeData(nid, start, end, elsewhere.get(nid, nid)) for nid, (start, end) in sorted(spans.items())
    )


def _zone_movable_start(log: list[str]) -> dict[int, int] | None:
    """The list under its heading; None where its end was not seen."""
    if _MOVABLE_HEAD not in log or _MOVABLE_END not in log:
        return None
    start, end = log.index(_MOVABLE_HEAD), log.index(_MOVABLE_END)
    found = [match for line in log[start:end] if (match := _MOVABLE_START.match(line))]
    return {int(match[1]): int(match[2], 16) for match in found}


def _panic(log: list[str], ended: str) -> str | None:
    """The first line of a panic or an oops and, for an oops, the function it happened in."""
    for index, line in enumerate(log):
        for pattern in _PANICS:
            if match := pattern.match(line):
                words = next(group for group in match.groups() if group)
                if words.startswith("Kernel panic"):
                    return words
                rip = next((m for later in log[index : index + 80] if (m := _RIP.match(later))), None)
                return f"{words} in {rip[1]}" if rip else words
    return {"timeout": "hang", "silent": "silent", "exited": "reset without a message"}.get(ended)
