"""Mutators aimed at what is at stake in the machine at hand, and across tables; registered on import.

At stake are the addresses where something changes hands: the kernel image, the initrd, the ACPI tables, the
edges of RAM and of nodes, sections and memory blocks, 4 GiB, the end of RAM. As in `acpitk.fuzz.mutators`,
a mutator draws from its generator only, and gives back a case it finds nothing to change in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise
from random import Random

from acpitk.fuzz import raw
from acpitk.fuzz.raw import ENABLED, HOT_PLUGGABLE, Memory, RawSrat
from acpitk.fuzz.registry import (
    KERNEL_ENDS,
    KERNEL_START,
    MAX_ENTRIES,
    Entries,
    case_mutator,
    entries_mutator,
    table_mutator,
    with_table,
)
from acpitk.fuzz.strategies import draw_cases
from acpitk.machine import Case
from acpitk.ranges import ADDRESS_LIMIT, GIB, KIB, MIB, PAGE_SIZE, SECTION_SIZE, align_down, align_up
from acpitk.tables.slit import build_slit, encode_slit

NUDGES = (0, 0, 1, 100, 2 * KIB, PAGE_SIZE, 64 * KIB, MIB - PAGE_SIZE, MIB, 2 * MIB, 4 * MIB, SECTION_SIZE)
"""How far from such an address it becomes interesting, bytes."""
_DONORS = 24
_MAX_LOCALITIES = 64


def _memories(entries: Sequence[bytes]) -> list[tuple[int, Memory]]:
    return [(i, found) for i, entry in enumerate(entries) if (found := raw.memory(entry)) is not None]


def _domains(entries: Sequence[bytes]) -> list[int]:
    return sorted({found for entry in entries if (found := raw.domain(entry)) is not None})


def _new_domain(entries: Sequence[bytes], rng: Random) -> int:
    known = _domains(entries)
    free: list[int] = [domain for domain in (*range(8), 63, 64, 255, 256, 1023) if domain not in known]
    return rng.choice(free) if free else (known[-1] + 1) % (1 << 32)


def _ram(case: Case) -> list[tuple[int, int]]:
    return [(e.start, e.end) for e in case.resolved().e820 if e.type == "usable"]


def stakes(case: Case) -> list[tuple[int, int]]:
    """The ranges at stake, bytes, half-open: image, what firmware and boot loader placed, pieces of RAM."""
    placed = [(r.start, r.end) for r in case.resolved().placed]
    images = [(KERNEL_START, end) for end in KERNEL_ENDS]
    return [*images, *placed, *_ram(case), (0, MIB), (4 * GIB, 4 * GIB + SECTION_SIZE)]


def _stake(case: Case, rng: Random) -> int:
    """An address near an edge of something at stake, or of a section there."""
    edge: int = rng.choice(rng.choice(stakes(case)))
    if rng.random() < 0.25:
        edge = align_down(edge + rng.choice((0, SECTION_SIZE - 1)), SECTION_SIZE)
    nudge: int = rng.choice(NUDGES) * rng.choice((-1, 1))
    return max(0, min(edge + nudge, ADDRESS_LIMIT - 1))


# Edges of ranges on what is at stake


@entries_mutator
def edge_at_stake(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Move one edge of memory, with all that touches it, to an edge of something at stake."""
    edges = sorted({edge for _, entry in _memories(entries) for edge in (entry.base, entry.end)})
    if not edges:
        return None
    to = _stake(case, rng)
    near = sorted(edges, key=lambda edge: abs(edge - to))[:2]
    edge = rng.choice((*near, rng.choice(edges)))
    for index, entry in _memories(entries):
        if entry.base == edge and to < entry.end:
            entries[index] = replace(entry, base=to, length=entry.end - to).encode()
        elif entry.end == edge and to > entry.base:
            entries[index] = replace(entry, length=to - entry.base).encode()
    return entries


@entries_mutator
def split_at_stake(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Cut a memory entry in two at an edge of something at stake, the upper part hot or in a new domain."""
    to = _stake(case, rng)
    around = [(i, entry) for i, entry in _memories(entries) if entry.base < to < entry.end]
    if not around:
        return None
    index, entry = rng.choice(around)
    domain = rng.choice((entry.domain, _new_domain(entries, rng)))
    flags = entry.flags ^ (HOT_PLUGGABLE if domain == entry.domain or rng.random() < 0.5 else 0)
    upper = replace(entry, base=to, length=entry.end - to, domain=domain, flags=flags)
    entries[index : index + 1] = [replace(entry, length=to - entry.base).encode(), upper.encode()]
    return entries


@entries_mutator
def straddle_stake(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Let the boundary between two domains run through something at stake."""
    start, end = rng.choice(stakes(case))
    middle = align_down(start + (end - start) // rng.choice((2, 3, 8)), PAGE_SIZE)
    around = [(i, entry) for i, entry in _memories(entries) if entry.base < middle < entry.end]
    if not around:
        return None
    index, entry = around[0]
    flags = entry.flags ^ rng.choice((0, HOT_PLUGGABLE))
    upper = replace(
        entry, base=middle, length=entry.end - middle, domain=_new_domain(entries, rng), flags=flags
    )
    entries[index : index + 1] = [replace(entry, length=middle - entry.base).encode(), upper.encode()]
    return entries


@entries_mutator
def uncover_stake(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Take a little memory at an edge of something at stake out of every memory entry."""
    size = rng.choice((1, 2 * KIB, PAGE_SIZE, 64 * KIB, MIB - PAGE_SIZE, MIB, MIB + PAGE_SIZE))
    start, end = rng.choice(stakes(case))
    at = rng.choice((start, end - size))
    out: Entries = []
    for entry in entries:
        found = raw.memory(entry)
        if found is None or found.end <= at or at + size <= found.base:
            out.append(entry)
            continue
        below = replace(found, length=max(0, at - found.base))
        above = replace(found, base=at + size, length=max(0, found.end - at - size))
        out += [part.encode() for part in (below, above) if part.length]
    return out


# What is left to the kernel


def _covered(entries: Sequence[bytes]) -> list[Memory]:
    return [entry for _, entry in _memories(entries) if entry.flags & ENABLED and entry.length]


def _only_plain(entries: Entries, plain: Sequence[tuple[int, int]], rng: Random) -> Entries | None:
    """All enabled memory hot but the given ranges, which get their own domain or keep their entries'."""
    own = rng.choice((None, _new_domain(entries, rng)))
    out = [entry for entry in entries if raw.memory(entry) is None]
    for entry in _covered(entries):
        cuts = {entry.base, entry.end}
        cuts |= {edge for span in plain for edge in span if entry.base < edge < entry.end}
        for low, high in pairwise(sorted(cuts)):
            inside = any(start <= low and high <= end for start, end in plain)
            flags = entry.flags & ~HOT_PLUGGABLE if inside else entry.flags | HOT_PLUGGABLE
            domain = own if inside and own is not None else entry.domain
            out.append(replace(entry, base=low, length=high - low, flags=flags, domain=domain).encode())
    return out


@entries_mutator
def only_stakes_plain(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Make all memory hot but some of what is at stake, and perhaps a little behind it."""
    image = (KERNEL_START, rng.choice(KERNEL_ENDS))
    low = (0, rng.choice((MIB, KERNEL_START)))
    placed = [(align_down(r.start, PAGE_SIZE), align_up(r.end, PAGE_SIZE)) for r in case.resolved().placed]
    chosen = [image, *rng.sample([low, *placed], rng.randrange(1 + len(placed)))]
    more = rng.choice((0, 0, 64 * KIB, MIB, 4 * MIB, 24 * MIB))
    return _only_plain(entries, [(start, end + more) for start, end in chosen], rng)


@entries_mutator
def plain_budget(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Leave the kernel so much memory as it just needs, or just not, at the bottom or at the top of RAM."""
    total = sum(end - start for start, end in _ram(case))
    needs = rng.choice(KERNEL_ENDS) - KERNEL_START + total // 64
    wanted = align_up(needs + rng.choice((0, MIB, 4 * MIB, 16 * MIB, 32 * MIB, 48 * MIB, 96 * MIB)), MIB)
    image = (0, rng.choice(KERNEL_ENDS))
    left = max(0, wanted - image[1])
    top = max((end for _, end in _ram(case)), default=GIB)
    plain = (0, image[1] + left) if rng.random() < 0.5 else (top - left, top)
    return _only_plain(entries, [image, plain], rng)


@entries_mutator
def hot_stripes(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Stripe one memory entry: hot and not, or two domains in turn, in sections or odd sizes."""
    large = [(i, entry) for i, entry in _memories(entries) if entry.length >= 4 * PAGE_SIZE]
    if not large:
        return None
    index, entry = rng.choice(large)
    parts = rng.choice((4, 4, 8, 8, 16, 140))  # memblock's arrays begin with room for 128 regions
    unit = rng.choice((PAGE_SIZE, 4 * MIB, SECTION_SIZE))
    size = max(align_down(entry.length // parts, unit), PAGE_SIZE)
    edges = list(islice(range(entry.base, entry.end, size), parts))
    other = rng.choice((entry.domain, _new_domain(entries, rng)))
    hot = HOT_PLUGGABLE if other == entry.domain or rng.random() < 0.5 else 0
    entries[index : index + 1] = [
        replace(
            entry,
            base=start,
            length=end - start,
            domain=other if n % 2 else entry.domain,
            flags=entry.flags ^ (hot if n % 2 else 0),
        ).encode()
        for n, (start, end) in enumerate(pairwise([*edges, entry.end]))
    ]
    return entries


# Nodes without memory, without processors


@entries_mutator
def boot_cpu_elsewhere(entries: Entries, case: Case, rng: Random) -> Entries:
    """Put the boot processor in a hot, an empty, an unknown or an impossible domain, or leave it out."""
    kept = [e for e in entries if not (e[0] == raw.PROCESSOR and e[3:4] == b"\0")]
    hot = [entry.domain for _, entry in _memories(entries) if entry.hot]
    domain = rng.choice((*hot, _new_domain(entries, rng), 1024, 0xFFFFFFFF))
    if rng.random() < 0.2:
        return kept
    make = rng.choice((raw.processor, raw.x2apic))
    return [make(domain, 0, rng.choice((ENABLED, ENABLED, 0))), *kept]


@entries_mutator
def node_without_processors(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Remove the processors of one domain."""
    kinds = (raw.PROCESSOR, raw.X2APIC)
    domains = sorted({found for e in entries if e[0] in kinds and (found := raw.domain(e)) is not None})
    if not domains:
        return None
    gone = rng.choice(domains)
    return [e for e in entries if e[0] not in kinds or raw.domain(e) != gone]


@entries_mutator
def node_without_memory(entries: Entries, case: Case, rng: Random) -> Entries:
    """Add a domain that has processors, initiators or ports, and no memory or none that is RAM."""
    domain = _new_domain(entries, rng)
    top = max((end for _, end in _ram(case)), default=GIB)
    kinds = (
        raw.processor(domain, rng.choice((0, 1, 7, 254))),
        raw.x2apic(domain, rng.choice((0, 1, 254, 255, 300))),
        raw.generic(raw.GENERIC_INITIATOR, domain, 0, 8),
        raw.generic(raw.GENERIC_PORT, domain, 0, 8),
        Memory(domain, align_up(top, SECTION_SIZE), GIB, ENABLED | HOT_PLUGGABLE).encode(),
        Memory(domain, rng.choice((0, KERNEL_START, 3 * GIB)), 0, ENABLED | HOT_PLUGGABLE).encode(),
    )
    new = rng.sample(kinds, rng.choice((1, 1, 2, 3)))
    at = rng.choice((0, len(entries), rng.randrange(len(entries) + 1)))
    return [*entries[:at], *new, *entries[at:]]


@entries_mutator
def acpi_initiator(entries: Entries, case: Case, rng: Random) -> Entries:
    """Add a generic initiator or port with an ACPI handle, or with one of no known type."""
    domain = rng.choice((*_domains(entries), _new_domain(entries, rng)))
    kind = rng.choice((raw.GENERIC_INITIATOR, raw.GENERIC_PORT))
    entry = raw.generic(kind, domain, 0, 0, rng.choice((ENABLED, 0)))
    handle = b"ACPI0016" + rng.choice((0, 1, 0xFFFFFFFF)).to_bytes(4, "little") + bytes(4)
    new = entry[:3] + bytes([rng.choice((0, 0, 2, 255))]) + entry[4:8] + handle + entry[24:]
    entries.insert(rng.choice((0, len(entries))), new)
    return entries


@entries_mutator
def same_processor_twice(entries: Entries, case: Case, rng: Random) -> Entries:
    """Name one processor by APIC and by x2APIC ID in two domains."""
    apic_id = rng.choice((0, 1, 254))
    domains = (*_domains(entries), _new_domain(entries, rng))
    pair = [raw.processor(rng.choice(domains), apic_id), raw.x2apic(rng.choice(domains), apic_id)]
    rng.shuffle(pair)
    return [*pair, *entries]


# Domains


@entries_mutator
def many_domains(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Give every entry of memory, cut in many, a domain of its own, as far as the limits go and beyond."""
    found = _covered(entries)
    if not found:
        return None
    parts = rng.choice((3, 3, 9, 9, 65, 130))
    first = rng.choice((0, 1, 200, 900, 1024 - parts))
    out = [entry for entry in entries if raw.memory(entry) is None]
    total = sum(entry.length for entry in found)
    domain = first
    for entry in found:
        size = max(align_up(total // parts, rng.choice((PAGE_SIZE, SECTION_SIZE))), PAGE_SIZE)
        for start in range(entry.base, entry.end, size):
            length = min(size, entry.end - start)
            out.append(replace(entry, base=start, length=length, domain=domain).encode())
            domain += 1
    return out


@case_mutator
def masked_domains_collide(case: Case, rng: Random) -> Case:
    """Set revision 1 and two domains that are one in eight bits."""
    table = case.table(b"SRAT")
    if table is None or len(table) < raw.FIXED_SIZE:
        return case
    srat = raw.cut(table)
    domains = _domains(srat.entries)
    if len(domains) < 2:
        return case
    one, other = rng.sample(domains, 2)
    to = (one + 256 * rng.choice((1, 2, 0x10000))) & 0xFFFFFFFF
    entries = tuple(raw.with_domain(e, to) if raw.domain(e) == other else e for e in srat.entries)
    head = srat.head[:8] + bytes([rng.choice((0, 1, 1))]) + srat.head[9:]
    return with_table(case, table, raw.keep_header_truth(table, RawSrat(head, entries, srat.tail).encode()))


# Distances against domains


def _with_slit(case: Case, slit: bytes) -> Case:
    old = case.table(b"SLIT")
    return replace(case, tables=(*case.tables, slit)) if old is None else with_table(case, old, slit)


@case_mutator
def slit_of_the_domains(case: Case, rng: Random) -> Case:
    """Give the SLIT a row for each domain up to the highest, one more, or one fewer, and odd distances."""
    table = case.table(b"SRAT")
    highest = max(_domains(raw.cut(table).entries), default=0) if table else 0
    size = min(max(1, highest + 1 + rng.choice((-1, 0, 0, 1))), _MAX_LOCALITIES)
    far = rng.choice((11, 15, 20, 21, 40, 254, 255))
    shape = rng.choice(("ring", "line", "one way", "far", "star"))
    near = [10 + min(10 * step, 245) for step in range(size)]
    ring = [near[min(step, size - step)] for step in range(size)]
    line = [*near[:0:-1], *near]
    rows = []
    for i in range(size):
        after = size - 1 - i
        if shape == "ring":
            row = ring[size - i :] + ring[: size - i]
        elif shape == "line":
            row = line[after : after + size]
        elif shape == "one way":
            row = [far] * i + [10] + [20] * after
        elif shape == "far" or i == 0:
            row = [far] * i + [10] + [far if shape == "far" else 20] * after
        else:  # a star, of which the first is the middle
            row = [20] + [far] * (i - 1) + [10] + [far] * after
        rows.append(row)
    return _with_slit(case, encode_slit(build_slit(rows)))


@table_mutator(b"SLIT")
def slit_count_wraps(table: bytes, case: Case, rng: Random) -> bytes:
    """Make the locality count one that means something else in 32 bits, or as a signed number."""
    if len(table) < 44 or rng.random() < 0.5:  # rarely: a kernel takes seconds to walk such a table
        return table
    low = rng.choice((0, 0, 1, 2, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFF))
    high = rng.choice((0, 1, 2, 0x100, 0x8000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
    count = (high << 32 | low).to_bytes(8, "little")
    return raw.keep_header_truth(table, table[:36] + count + table[44:])


# The set of tables, and other cases


@case_mutator
def repeat_table(case: Case, rng: Random) -> Case:
    """Repeat one table, changed, before or after the first."""
    if not 0 < len(case.tables) <= 4:
        return case
    table = rng.choice(case.tables)
    if len(table) > raw.FIXED_SIZE:
        at = rng.randrange(raw.HEADER_SIZE, len(table))
        table = raw.keep_header_truth(table, table[:at] + rng.randbytes(1) + table[at + 1 :])
    at = rng.choice((0, len(case.tables)))
    return replace(case, tables=(*case.tables[:at], table, *case.tables[at:]))


def splice(case: Case, other: Case, rng: Random) -> Case:
    """A case of parts of both: its machine and command line, entries of either SRAT, a SLIT of either."""
    table, donor = case.table(b"SRAT"), other.table(b"SRAT")
    if table is None or donor is None:
        return case
    ours, theirs = raw.cut(table), raw.cut(donor)
    how = rng.randrange(4)
    if how == 0:
        at, to = rng.randrange(len(ours.entries) + 1), rng.randrange(len(theirs.entries) + 1)
        entries = ours.entries[:at] + theirs.entries[to:]
    elif how == 1:
        entries = tuple(e for e in ours.entries if e[0] == raw.MEMORY)
        entries = tuple(e for e in theirs.entries if e[0] != raw.MEMORY) + entries
    elif how == 2:
        entries = tuple(rng.choice(pair) for pair in zip(ours.entries, theirs.entries, strict=False))
    else:
        entries = ours.entries
    if len(entries) > MAX_ENTRIES:
        return case
    after = RawSrat(ours.head, entries, ours.tail).encode()
    out = with_table(case, table, raw.keep_header_truth(table, after))
    if (slit := other.table(b"SLIT")) is not None and (how == 3 or rng.random() < 0.3):
        out = _with_slit(out, slit)
    return replace(out, cmdline=other.cmdline) if rng.random() < 0.2 else out


@case_mutator
def splice_drawn(case: Case, rng: Random) -> Case:
    """Put in parts of another case, drawn at random."""
    return splice(case, rng.choice(draw_cases(rng.randrange(2), _DONORS)), rng)


# Bytes


@table_mutator(b"SRAT")
def copy_bytes(table: bytes, case: Case, rng: Random) -> bytes:
    """Copy some bytes of the SRAT over others, or between them."""
    if len(table) <= raw.FIXED_SIZE:
        return table
    size = rng.choice((1, 2, 4, 8, 16, 40))
    source, to = rng.randrange(len(table)), rng.randrange(raw.HEADER_SIZE, len(table))
    chunk = table[source : source + size]
    kept = to + (len(chunk) if rng.random() < 0.5 else 0)
    return raw.keep_header_truth(table, table[:to] + chunk + table[kept:])


@table_mutator(b"SRAT")
def delete_bytes(table: bytes, case: Case, rng: Random) -> bytes:
    """Delete some bytes of the SRAT's entries."""
    if len(table) <= raw.FIXED_SIZE:
        return table
    at = rng.randrange(raw.FIXED_SIZE, len(table))
    size = rng.choice((1, 2, 4, 8, 16, 40))
    return raw.keep_header_truth(table, table[:at] + table[at + size :])


@table_mutator(b"SRAT")
def add_to_field(table: bytes, case: Case, rng: Random) -> bytes:
    """Add a little, or a power of two, to a field of 1 to 8 bytes anywhere in the SRAT's entries."""
    width = rng.choice((1, 2, 4, 8))
    if len(table) < raw.FIXED_SIZE + width:
        return table
    at = rng.randrange(raw.FIXED_SIZE, len(table) - width + 1)
    step = rng.choice((1, 2, 3, 16, 1 << rng.randrange(8 * width))) * rng.choice((-1, 1))
    value = int.from_bytes(table[at : at + width], "little") + step & (1 << 8 * width) - 1
    return raw.keep_header_truth(table, table[:at] + value.to_bytes(width, "little") + table[at + width :])


# Command line


@case_mutator
def option_at_stake(case: Case, rng: Random) -> Case:
    """Cut memory off, or reserve some of it, at an edge of something at stake by the command line."""
    at = _stake(case, rng)
    size = rng.choice((PAGE_SIZE, MIB, 16 * MIB, SECTION_SIZE))
    option = rng.choice(
        (
            f"mem={max(at, 256 * MIB) >> 10}K",
            f"memmap={size >> 10}K${at:#x}",
            f"memmap={size >> 10}K#{at:#x}",
            f"crashkernel={rng.choice((16, 64, 256, 512))}M",
            f"movablecore={max(at >> 20, 1)}M",
            f"kernelcore={max(at >> 20, 1)}M",
        )
    )
    words = [word for word in case.cmdline.split() if word.partition("=")[0] != option.partition("=")[0]]
    return replace(case, cmdline=" ".join([*words, option][-6:]))
