"""Named mutations of a case, as data: each a small, pure, seeded function from a case to a case.

A mutator that finds nothing to change (no SRAT, no memory entry) returns the case as it is.
All reach tables that no decoder accepts. A header whose length or checksum was right is kept right, and one
that was wrong stays wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

from acpitk.fuzz import raw
from acpitk.fuzz.raw import ENABLED, HOT_PLUGGABLE, NON_VOLATILE, SPECIFIC_PURPOSE, Memory, RawSrat
from acpitk.fuzz.registry import (
    KERNEL_ENDS,
    KERNEL_START,
    MUTATORS,
    Entries,
    case_mutator,
    entries_mutator,
    on_entries,
    register,
    table_mutator,
    with_table,
)
from acpitk.machine import ACPI_TABLES, INITRD, Q35, Case
from acpitk.ranges import ADDRESS_LIMIT, GIB, KIB, MIB, PAGE_SIZE, SECTION_SIZE, TIB, align_down, align_up
from acpitk.tables.header import seal
from acpitk.tables.slit import build_slit, encode_slit

__all__ = ["MUTATORS", "mutate", "sealed"]

DELIVERABLE_BYTES = 65535
"""The largest table QEMU's -acpitable takes."""
STEPS = (
    *(1, 100, PAGE_SIZE, 64 * KIB),
    *(MIB - PAGE_SIZE, MIB, MIB + PAGE_SIZE),
    *(2 * MIB, 4 * MIB, 64 * MIB, SECTION_SIZE, GIB),
)
"""Distances at which something changes: byte, page, coverage limit, ZONE_MOVABLE alignment, block, hole."""
GAPS = (2 * KIB, PAGE_SIZE, MIB - PAGE_SIZE, MIB, MIB + PAGE_SIZE, SECTION_SIZE)
"""Sizes of memory without an entry at which kernels change their mind."""
DOMAINS = (1, 2, 7, 127, 254, 255, 256, 257, 1022, 1023, 1024, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutate(
    case: Case, rng: Random, *, names: Sequence[str] | None = None, rounds: int = 1
) -> tuple[Case, tuple[str, ...]]:
    """Apply `rounds` mutators drawn from `names` (default: all), one after the other.

    Returns:
        The mutated case and the names of the mutators that changed it, in order.
    """
    choices = tuple(MUTATORS) if names is None else names
    applied = []
    for _ in range(rounds):
        name = rng.choice(choices)
        changed = MUTATORS[name].apply(case, rng)
        if changed != case:
            case = changed
            applied.append(name)
    return case, tuple(applied)


def sealed(case: Case) -> Case:
    """The nearest case that `-acpitable` can carry: no table below 36 or above 65535 bytes, headers right."""
    tables = tuple(seal(table[:DELIVERABLE_BYTES]) for table in case.tables if len(table) >= raw.HEADER_SIZE)
    return Case(machine=case.machine, tables=tables, cmdline=case.cmdline)


EditMemory = Callable[[Memory, Case, Random], Memory | Sequence[Memory]]


def _memory_mutator(function: EditMemory) -> EditMemory:
    """A mutator of one memory affinity entry, drawn at random; it may give several for one."""

    def edit(entries: Entries, case: Case, rng: Random) -> Entries | None:
        found = _memories(entries)
        if not found:
            return None
        index, entry = rng.choice(found)
        edited = function(entry, case, rng)
        parts = (edited,) if isinstance(edited, Memory) else edited
        entries[index : index + 1] = [part.encode() for part in parts]
        return entries

    register(function, on_entries(edit))
    return function


def _memories(entries: Sequence[bytes]) -> list[tuple[int, Memory]]:
    return [(i, found) for i, entry in enumerate(entries) if (found := raw.memory(entry)) is not None]


def _domains(entries: Sequence[bytes]) -> list[int]:
    return sorted({found for entry in entries if (found := raw.domain(entry)) is not None})


def _signed_step(rng: Random) -> int:
    return rng.choice(STEPS) * rng.choice((-1, 1))


def _ram_end(case: Case) -> int:
    return max((e.end for e in case.resolved().e820 if e.type == "usable"), default=GIB)


# Flags


@_memory_mutator
def toggle_enabled(entry: Memory, case: Case, rng: Random) -> Memory:
    """Flip Enabled in one memory entry."""
    return replace(entry, flags=entry.flags ^ ENABLED)


@_memory_mutator
def toggle_hotplug(entry: Memory, case: Case, rng: Random) -> Memory:
    """Flip Hot Pluggable in one memory entry."""
    return replace(entry, flags=entry.flags ^ HOT_PLUGGABLE)


@_memory_mutator
def toggle_non_volatile(entry: Memory, case: Case, rng: Random) -> Memory:
    """Flip NonVolatile in one memory entry."""
    return replace(entry, flags=entry.flags ^ NON_VOLATILE)


@_memory_mutator
def toggle_specific_purpose(entry: Memory, case: Case, rng: Random) -> Memory:
    """Flip Specific Purpose (ACPI 6.6) in one memory entry."""
    return replace(entry, flags=entry.flags ^ SPECIFIC_PURPOSE)


@_memory_mutator
def toggle_reserved_flag(entry: Memory, case: Case, rng: Random) -> Memory:
    """Flip a reserved flag bit in one memory entry."""
    return replace(entry, flags=entry.flags ^ 1 << rng.randrange(4, 32))


@_memory_mutator
def saturate_flags(entry: Memory, case: Case, rng: Random) -> Memory:
    """Set the flags of one memory entry to nothing or to everything."""
    return replace(entry, flags=rng.choice((0, 0xFFFFFFFF)))


def _all_hot(entries: Entries, hot: Callable[[Memory], bool]) -> Entries:
    for index, entry in _memories(entries):
        flags = entry.flags | HOT_PLUGGABLE if hot(entry) else entry.flags & ~HOT_PLUGGABLE
        entries[index] = Memory(entry.domain, entry.base, entry.length, flags, entry.extra).encode()
    return entries


@entries_mutator
def everything_hot(entries: Entries, case: Case, rng: Random) -> Entries:
    """Set Hot Pluggable in every memory entry."""
    return _all_hot(entries, lambda entry: True)


@entries_mutator
def nothing_hot(entries: Entries, case: Case, rng: Random) -> Entries:
    """Clear Hot Pluggable in every memory entry."""
    return _all_hot(entries, lambda entry: False)


@entries_mutator
def one_domain_hot(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Set Hot Pluggable exactly in the memory entries of one proximity domain."""
    found = _memories(entries)
    if not found:
        return None
    hot = rng.choice(found)[1].domain
    return _all_hot(entries, lambda entry: entry.domain == hot)


@entries_mutator
def toggle_any_enabled(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Flip Enabled in one entry of any type that has flags."""
    if not entries:
        return None
    index = rng.randrange(len(entries))
    flags = raw.flags(entries[index])
    if flags is not None:
        entries[index] = raw.with_flags(entries[index], flags ^ ENABLED)
    return entries


# Base and length


@_memory_mutator
def shift_range(entry: Memory, case: Case, rng: Random) -> Memory:
    """Move the base of one memory entry, the length stays."""
    return replace(entry, base=(entry.base + _signed_step(rng)) % ADDRESS_LIMIT)


@_memory_mutator
def shift_start(entry: Memory, case: Case, rng: Random) -> Memory:
    """Move the start of one memory entry, the end stays."""
    start = min(max(0, entry.base + _signed_step(rng)), entry.end)
    return replace(entry, base=start, length=entry.end - start)


@_memory_mutator
def shift_end(entry: Memory, case: Case, rng: Random) -> Memory:
    """Move the end of one memory entry, the start stays."""
    return replace(entry, length=max(0, entry.length + _signed_step(rng)))


@_memory_mutator
def start_at_landmark(entry: Memory, case: Case, rng: Random) -> Memory:
    """Start one memory entry at an address that matters."""
    start = _landmark(case, rng)
    return replace(entry, base=start, length=entry.end - start if start < entry.end else entry.length)


@_memory_mutator
def end_at_landmark(entry: Memory, case: Case, rng: Random) -> Memory:
    """End one memory entry at an address that matters."""
    return replace(entry, length=max(0, _landmark(case, rng) - entry.base))


def _landmark(case: Case, rng: Random) -> int:
    machine = case.resolved()
    edges = [edge for e in machine.e820 for edge in (e.start, e.end)]
    edges += [edge for r in machine.placed for edge in (r.start, r.end)]
    edges += [0, 64 * KIB, MIB, KERNEL_START, *KERNEL_ENDS, 4 * GIB, 64 * GIB]
    return rng.choice(edges)


@_memory_mutator
def align_start(entry: Memory, case: Case, rng: Random) -> Memory:
    """Round the start of one memory entry to a larger unit."""
    start = align_down(entry.base, rng.choice((PAGE_SIZE, 4 * MIB, SECTION_SIZE, 2 * GIB)))
    return replace(entry, base=start, length=entry.end - start)


@_memory_mutator
def empty_range(entry: Memory, case: Case, rng: Random) -> Memory:
    """Make one memory entry empty."""
    return replace(entry, length=0)


@_memory_mutator
def wrap_range(entry: Memory, case: Case, rng: Random) -> Memory:
    """Make one memory entry wrap past 2^64, or end exactly there."""
    length = ADDRESS_LIMIT - max(1, entry.base) + rng.choice((0, 1, PAGE_SIZE, MIB, GIB))
    return replace(entry, base=max(1, entry.base), length=min(length, ADDRESS_LIMIT - 1))


@_memory_mutator
def swap_words(entry: Memory, case: Case, rng: Random) -> Memory:
    """Swap the high and low words of one base or length."""

    def swapped(value: int) -> int:
        return (value >> 32 | value << 32) & (ADDRESS_LIMIT - 1)

    if rng.random() < 0.5:
        return replace(entry, base=swapped(entry.base))
    return replace(entry, length=swapped(entry.length))


@_memory_mutator
def flip_address_bit(entry: Memory, case: Case, rng: Random) -> Memory:
    """Flip one bit of one base or length."""
    bit = 1 << rng.randrange(64)
    if rng.random() < 0.5:
        return replace(entry, base=entry.base ^ bit)
    return replace(entry, length=entry.length ^ bit)


@_memory_mutator
def gap(entry: Memory, case: Case, rng: Random) -> Memory:
    """Leave a gap before or after one memory entry."""
    size = min(rng.choice(GAPS), entry.length)
    if rng.random() < 0.5:
        return replace(entry, length=entry.length - size)
    return replace(entry, base=entry.base + size, length=entry.length - size)


@_memory_mutator
def hole(entry: Memory, case: Case, rng: Random) -> Sequence[Memory]:
    """Cut a gap out of the middle of one memory entry."""
    if entry.length < 4 * PAGE_SIZE:
        return (entry,)
    start = align_down(entry.length // 2, PAGE_SIZE)
    size = min(rng.choice(STEPS), entry.length - start)
    return (
        replace(entry, length=start),
        replace(entry, base=entry.base + start + size, length=entry.length - start - size),
    )


@entries_mutator
def shift_boundary(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Move the boundary between two adjoining memory entries."""
    pair = _adjoining(entries, rng)
    if pair is None:
        return None
    (i, low), (j, high) = pair
    step = max(-low.length, min(_signed_step(rng), high.length))
    entries[i] = replace(low, length=low.length + step).encode()
    entries[j] = replace(high, base=high.base + step, length=high.length - step).encode()
    return entries


@entries_mutator
def nudge_hot_start(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Move the start of one hot memory entry up, with the end of what adjoins it, off its alignment."""
    hot = [(i, entry) for i, entry in _memories(entries) if entry.hot and entry.length > SECTION_SIZE]
    if not hot:
        return None
    index, entry = rng.choice(hot)
    step = rng.choice((1, 100, PAGE_SIZE, MIB, 4 * MIB, 64 * MIB))
    for i, low in _memories(entries):
        if low.end == entry.base:
            entries[i] = replace(low, length=low.length + step).encode()
    entries[index] = replace(entry, base=entry.base + step, length=entry.length - step).encode()
    return entries


def _adjoining(entries: Entries, rng: Random) -> tuple[tuple[int, Memory], tuple[int, Memory]] | None:
    ordered = sorted(_memories(entries), key=lambda found: (found[1].base, found[0]))
    pairs = [(a, b) for a, b in pairwise(ordered) if a[1].end == b[1].base]
    return rng.choice(pairs) if pairs else None


# Overlap


def _neighbours(entries: Entries, rng: Random, *, same: bool) -> tuple[int, Memory, Memory] | None:
    found = _memories(entries)
    pairs = [
        (i, a, b)
        for i, a in found
        for j, b in found
        if i != j and (a.domain == b.domain) == same and b.length
    ]
    return rng.choice(pairs) if pairs else None


@entries_mutator
def overlap_across_domains(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Stretch one memory entry into one of another domain."""
    return _overlap(entries, rng, same=False)


@entries_mutator
def overlap_within_domain(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Stretch one memory entry into another of the same domain."""
    return _overlap(entries, rng, same=True)


def _overlap(entries: Entries, rng: Random, *, same: bool) -> Entries | None:
    pair = _neighbours(entries, rng, same=same)
    if pair is None:
        return None
    index, entry, other = pair
    depth = min(rng.choice(STEPS), other.length)
    if entry.base <= other.base:
        entry = replace(entry, length=other.base + depth - entry.base)
    else:
        start = other.end - depth
        entry = replace(entry, base=start, length=max(entry.end - start, depth))
    entries[index] = entry.encode()
    return entries


@entries_mutator
def nested_same_domain(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Add an entry inside one memory entry, same domain, other flags."""
    return _nested(entries, rng, step=0)


@entries_mutator
def nested_other_domain(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Add an entry inside one memory entry, another domain."""
    return _nested(entries, rng, step=rng.choice((1, 2, 5)))


def _nested(entries: Entries, rng: Random, *, step: int) -> Entries | None:
    found = [(i, entry) for i, entry in _memories(entries) if entry.length >= 2 * PAGE_SIZE]
    if not found:
        return None
    index, entry = rng.choice(found)
    start = align_down(rng.randrange(entry.length), rng.choice((PAGE_SIZE, 4 * MIB, SECTION_SIZE)))
    length = min(rng.choice(STEPS), entry.length - start)
    inner = Memory(entry.domain + step, entry.base + start, length, entry.flags ^ HOT_PLUGGABLE)
    entries.insert(index + rng.randrange(2), inner.encode())
    return entries


# Hot ranges over what must not move


def _carve(entries: Entries, start: int, end: int, domain: int | None, *, hot: bool) -> Entries | None:
    """Cut [start, end) out of the enabled memory entries and describe it anew; None where none covers it."""
    out: Entries = []
    covered = False
    for entry in entries:
        found = raw.memory(entry)
        if found is None or not found.flags & ENABLED or found.base >= end or found.end <= start:
            out.append(entry)
            continue
        covered = True
        low, high = max(found.base, start), min(found.end, end)
        flags = found.flags | HOT_PLUGGABLE if hot else found.flags & ~HOT_PLUGGABLE
        parts = (
            replace(found, length=low - found.base),
            replace(
                found,
                base=low,
                length=high - low,
                flags=flags,
                domain=found.domain if domain is None else domain,
            ),
            replace(found, base=high, length=found.end - high),
        )
        out += [part.encode() for part in parts if part.length]
    return out if covered else None


def _hot_over(entries: Entries, start: int, end: int, rng: Random) -> Entries | None:
    unit = rng.choice((PAGE_SIZE, 2 * MIB, SECTION_SIZE))
    domain = rng.choice((None, *_domains(entries), 9))
    return _carve(entries, align_down(start, unit), align_up(end, unit), domain, hot=True)


@entries_mutator
def hotplug_over_kernel(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Make memory under the kernel image hot, in its own domain or another."""
    start = KERNEL_START + rng.choice((0, 2 * MIB, 32 * MIB))
    return _hot_over(entries, start, start + rng.choice((PAGE_SIZE, 16 * MIB, 64 * MIB)), rng)


def _over_placed(entries: Entries, case: Case, rng: Random, owner: str) -> Entries | None:
    placed = [r for r in case.resolved().placed if r.owner == owner]
    return _hot_over(entries, placed[0].start, placed[0].end, rng) if placed else None


@entries_mutator
def hotplug_over_initrd(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Make memory under the initrd hot."""
    return _over_placed(entries, case, rng, INITRD)


@entries_mutator
def hotplug_over_acpi_tables(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Make memory under the ACPI tables hot."""
    return _over_placed(entries, case, rng, ACPI_TABLES)


@entries_mutator
def starve_kernel(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Leave the kernel only a little memory that is not hot."""
    just_enough = rng.choice(KERNEL_ENDS) + rng.choice((0, 64 * KIB, 256 * KIB, MIB))
    left = rng.choice((MIB, KERNEL_START, just_enough, 64 * MIB, 72 * MIB, 96 * MIB, 128 * MIB))
    return _carve(entries, left, ADDRESS_LIMIT, rng.choice((None, 1, 5)), hot=True)


@entries_mutator
def island(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Carve a small island of another domain out of memory."""
    start = align_down(rng.randrange(_ram_end(case)), rng.choice((PAGE_SIZE, MIB, SECTION_SIZE)))
    size = rng.choice((PAGE_SIZE, MIB, 2 * MIB, 4 * MIB, SECTION_SIZE))
    return _carve(entries, start, start + size, rng.choice((*_domains(entries), 6)), hot=rng.random() < 0.5)


@entries_mutator
def swallow_hole(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Let one memory entry swallow the hole up to the next one."""
    ordered = sorted(_memories(entries), key=lambda found: (found[1].base, found[0]))
    pairs = [(a, b) for a, b in pairwise(ordered) if a[1].end < b[1].base]
    if not pairs:
        return None
    (i, low), (_, high) = rng.choice(pairs)
    entries[i] = replace(low, length=high.base - low.base).encode()
    return entries


@entries_mutator
def range_beyond_ram(entries: Entries, case: Case, rng: Random) -> Entries:
    """Promise memory above the end of RAM, as hypervisors do."""
    base = align_up(_ram_end(case), rng.choice((PAGE_SIZE, SECTION_SIZE, GIB, TIB)))
    length = rng.choice((SECTION_SIZE, GIB, 512 * GIB, 1 << 49, (1 << 63) - base))
    flags = ENABLED | rng.choice((0, HOT_PLUGGABLE))
    entry = Memory(rng.choice((*_domains(entries), 3, 8)), base, length, flags)
    entries.insert(rng.randrange(len(entries) + 1), entry.encode())
    return entries


@entries_mutator
def memoryless_domain(entries: Entries, case: Case, rng: Random) -> Entries:
    """Add a domain with an empty memory range, as for a future device."""
    base = rng.choice((0, GIB, 4 * GIB, _ram_end(case)))
    entry = Memory(rng.choice((2, 4, 11)), base, 0, ENABLED | rng.choice((0, HOT_PLUGGABLE)))
    entries.insert(rng.randrange(len(entries) + 1), entry.encode())
    return entries


# Entries as a list


@entries_mutator
def delete_entry(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Delete an entry."""
    if not entries:
        return None
    del entries[rng.randrange(len(entries))]
    return entries


@entries_mutator
def delete_type(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Delete every entry of one type."""
    if not entries:
        return None
    kind = rng.choice(entries)[0]
    return [entry for entry in entries if entry[0] != kind]


@entries_mutator
def duplicate_entry(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Repeat an entry somewhere in the table."""
    if not entries:
        return None
    entries.insert(rng.randrange(len(entries) + 1), rng.choice(entries))
    return entries


@entries_mutator
def duplicate_in_other_domain(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Repeat an entry in another domain."""
    if not entries:
        return None
    copy = raw.with_domain(rng.choice(entries), rng.choice((*_domains(entries), 12)))
    entries.insert(rng.randrange(len(entries) + 1), copy)
    return entries


@entries_mutator
def swap_entries(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Swap two entries."""
    if len(entries) < 2:
        return None
    i, j = rng.sample(range(len(entries)), 2)
    entries[i], entries[j] = entries[j], entries[i]
    return entries


@entries_mutator
def shuffle_entries(entries: Entries, case: Case, rng: Random) -> Entries:
    """Put all entries in a random order."""
    rng.shuffle(entries)
    return entries


@entries_mutator
def reverse_entries(entries: Entries, case: Case, rng: Random) -> Entries:
    """Reverse the entries."""
    return entries[::-1]


@entries_mutator
def memory_first(entries: Entries, case: Case, rng: Random) -> Entries:
    """Put the memory entries before all others."""
    return sorted(entries, key=lambda entry: entry[0] != raw.MEMORY)


@_memory_mutator
def split_range(entry: Memory, case: Case, rng: Random) -> Sequence[Memory]:
    """Split one memory entry in two, the upper part perhaps hot or in another domain."""
    at = (
        align_down(rng.randrange(entry.length), rng.choice((1, PAGE_SIZE, 4 * MIB, SECTION_SIZE)))
        if entry.length
        else 0
    )
    if not at:
        return (entry,)
    upper = replace(
        entry,
        base=entry.base + at,
        length=entry.length - at,
        flags=entry.flags ^ rng.choice((0, HOT_PLUGGABLE)),
        domain=entry.domain + rng.choice((0, 0, 1, 2)),
    )
    return (replace(entry, length=at), upper)


@_memory_mutator
def half_hot(entry: Memory, case: Case, rng: Random) -> Sequence[Memory]:
    """Make one half of a memory entry hot and the other not, in the same domain."""
    half = align_down(entry.length // 2, rng.choice((PAGE_SIZE, 64 * MIB, SECTION_SIZE)))
    flags = rng.sample((entry.flags | HOT_PLUGGABLE, entry.flags & ~HOT_PLUGGABLE), 2)
    return (
        replace(entry, length=half, flags=flags[0]),
        replace(entry, base=entry.base + half, length=entry.length - half, flags=flags[1]),
    )


@_memory_mutator
def splinter_range(entry: Memory, case: Case, rng: Random) -> Sequence[Memory]:
    """Split one memory entry in many."""
    parts = rng.choice((8, 16, 32))
    size = align_down(entry.length // parts, PAGE_SIZE)
    if not size:
        return (entry,)
    edges = [*range(entry.base, entry.base + parts * size, size), entry.end]
    hot = rng.choice((0, HOT_PLUGGABLE))
    return [
        replace(entry, base=start, length=end - start, flags=entry.flags ^ (hot if i % 2 else 0))
        for i, (start, end) in enumerate(pairwise(edges))
    ]


@entries_mutator
def merge_ranges(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Merge two adjoining memory entries, whatever their domains and flags."""
    pair = _adjoining(entries, rng)
    if pair is None:
        return None
    (i, low), (j, high) = pair
    entries[i] = replace(low, length=low.length + high.length).encode()
    del entries[j]
    return entries


# Proximity domains


@entries_mutator
def extreme_domain(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Put one entry in a domain at an edge of what tables or kernels can count."""
    if not entries:
        return None
    index = rng.randrange(len(entries))
    entries[index] = raw.with_domain(entries[index], rng.choice(DOMAINS))
    return entries


def _map_domains(entries: Entries, renamed: Mapping[int, int]) -> Entries:
    return [
        entry if (found := raw.domain(entry)) is None else raw.with_domain(entry, renamed.get(found, found))
        for entry in entries
    ]


@entries_mutator
def renumber_domain(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Renumber one domain everywhere to an edge of what tables or kernels can count."""
    domains = _domains(entries)
    return _map_domains(entries, {rng.choice(domains): rng.choice(DOMAINS)}) if domains else None


@entries_mutator
def swap_domains(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Swap two domains everywhere."""
    domains = _domains(entries)
    if len(domains) < 2:
        return None
    a, b = rng.sample(domains, 2)
    return _map_domains(entries, {a: b, b: a})


@entries_mutator
def collapse_domains(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Collapse two domains into one."""
    domains = _domains(entries)
    if len(domains) < 2:
        return None
    a, b = rng.sample(domains, 2)
    return _map_domains(entries, {a: b})


@entries_mutator
def domain_above_byte(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Add 256 to a domain, which revision 1 cannot say."""
    domains = _domains(entries)
    if not domains:
        return None
    chosen = rng.choice(domains)
    return _map_domains(entries, {chosen: (chosen + 256) & 0xFFFFFFFF})


@entries_mutator
def sparse_domains(entries: Entries, case: Case, rng: Random) -> Entries:
    """Spread the domain numbers out."""
    factor = rng.choice((2, 10, 64))
    return _map_domains(entries, {d: d * factor & 0xFFFFFFFF for d in _domains(entries)})


# Subtable headers


@entries_mutator
def declared_length(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Set the declared length of one entry, its bytes stay."""
    if not entries:
        return None
    index = rng.randrange(len(entries))
    entry = entries[index]
    length = rng.choice((0, 1, 2, 3, len(entry) - 1, len(entry) + 1, len(entry) * 2, 255)) & 0xFF
    entries[index] = entry[:1] + bytes([length]) + entry[2:]
    return entries


@entries_mutator
def short_entry(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Cut one entry short, with the length to match."""
    if not entries:
        return None
    index = rng.randrange(len(entries))
    entry = entries[index]
    length = rng.randrange(2, len(entry)) if len(entry) > 2 else 2
    entries[index] = entry[:1] + bytes([length]) + entry[2:length]
    return entries


@entries_mutator
def long_entry(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Make one entry longer than its type needs, with the length to match."""
    if not entries:
        return None
    index = rng.randrange(len(entries))
    entry = (entries[index] + bytes(rng.choice((1, 8, 40))))[:255]
    entries[index] = entry[:1] + bytes([len(entry)]) + entry[2:]
    return entries


@entries_mutator
def zero_length_entry(entries: Entries, case: Case, rng: Random) -> Entries:
    """Insert a subtable of length zero."""
    kind = rng.choice((0, 1, 2, 5, 0x77, 0xFF))
    entries.insert(rng.randrange(len(entries) + 1), bytes([kind, 0]) + bytes(rng.choice((0, 14, 38))))
    return entries


@entries_mutator
def unknown_entry(entries: Entries, case: Case, rng: Random) -> Entries:
    """Insert a subtable of an unknown type."""
    length = rng.choice((2, 3, 16, 40, 255))
    kind = rng.choice((8, 9, 0x77, 0x80, 0xFF))
    entries.insert(rng.randrange(len(entries) + 1), bytes([kind, length]) + rng.randbytes(length - 2))
    return entries


@entries_mutator
def change_type(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Change the type of one entry, its bytes stay."""
    if not entries:
        return None
    index = rng.randrange(len(entries))
    entries[index] = bytes([rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 0xFF))]) + entries[index][1:]
    return entries


@entries_mutator
def reserved_bytes(entries: Entries, case: Case, rng: Random) -> Entries | None:
    """Set reserved bytes of one memory entry."""
    found = _memories(entries)
    if not found:
        return None
    index, _ = rng.choice(found)
    entry = bytearray(entries[index])
    entry[rng.choice((6, 7, *range(24, 28), *range(32, 40)))] = rng.randrange(1, 256)
    entries[index] = bytes(entry)
    return entries


# Processors, generic initiators and ports


@entries_mutator
def add_processor(entries: Entries, case: Case, rng: Random) -> Entries:
    """Add a processor, by APIC or x2APIC ID, enabled or not."""
    domain = rng.choice((*_domains(entries), 0, 13))
    flags = rng.choice((ENABLED, ENABLED, 0))
    if rng.random() < 0.5:
        entry = raw.processor(domain, rng.choice((0, 1, 2, 254, 255)), flags)
    else:
        entry = raw.x2apic(domain, rng.choice((0, 1, 253, 254, 255, 300, 0x7FFFFFFF, 0xFFFFFFFF)), flags)
    entries.insert(rng.randrange(len(entries) + 1), entry)
    return entries


@entries_mutator
def many_processors(entries: Entries, case: Case, rng: Random) -> Entries:
    """Put many processors in front, spread over the domains."""
    domains = _domains(entries) or [0]
    count, wide = rng.choice((4, 16, 64)), rng.random() < 0.5
    new = [(raw.x2apic if wide else raw.processor)(domains[i % len(domains)], i) for i in range(count)]
    return new + entries


@entries_mutator
def reverse_processors(entries: Entries, case: Case, rng: Random) -> Entries:
    """Reverse the processor entries among themselves."""
    kinds = (raw.PROCESSOR, raw.X2APIC)
    reversed_ones = iter([entry for entry in entries if entry[0] in kinds][::-1])
    return [next(reversed_ones) if entry[0] in kinds else entry for entry in entries]


@entries_mutator
def add_generic(entries: Entries, case: Case, rng: Random) -> Entries:
    """Add a generic initiator or port at the front or the back, enabled or not."""
    entry = raw.generic(
        rng.choice((raw.GENERIC_INITIATOR, raw.GENERIC_INITIATOR, raw.GENERIC_PORT)),
        rng.choice((*_domains(entries), 5, 1024)),
        rng.randrange(256),
        rng.randrange(256),
        rng.choice((ENABLED, 0, 2, 3)),
    )
    entries.insert(rng.choice((0, len(entries))), entry)
    return entries


# The SRAT as bytes


@table_mutator(b"SRAT")
def revision(table: bytes, case: Case, rng: Random) -> bytes:
    """Set the SRAT's revision."""
    if len(table) < raw.HEADER_SIZE:
        return table
    return raw.keep_header_truth(table, table[:8] + bytes([rng.choice((0, 1, 2, 3, 4, 255))]) + table[9:])


@table_mutator(b"SRAT")
def truncate(table: bytes, case: Case, rng: Random) -> bytes:
    """Cut the SRAT short, header to match."""
    return raw.keep_header_truth(table, table[: _cut_point(table, rng)])


@table_mutator(b"SRAT")
def truncate_unsealed(table: bytes, case: Case, rng: Random) -> bytes:
    """Cut the SRAT short under its header's length."""
    return table[: _cut_point(table, rng)]


def _cut_point(table: bytes, rng: Random) -> int:
    if rng.random() < 0.5:
        return max(0, len(table) - rng.choice((1, 2, 3, 37, 38, 39, 40)))
    return rng.randrange(len(table) + 1)


@table_mutator(b"SRAT")
def trailing_bytes(table: bytes, case: Case, rng: Random) -> bytes:
    """Append bytes to the SRAT, header to match."""
    extra = rng.choice((b"\0", b"\0\0", b"\0\0\0", b"\1", b"\1\x28", bytes(40), rng.randbytes(8)))
    return raw.keep_header_truth(table, table + extra)


@table_mutator(b"SRAT")
def flip_bit(table: bytes, case: Case, rng: Random) -> bytes:
    """Flip one bit anywhere after the SRAT's header."""
    return _flip(table, raw.HEADER_SIZE, rng)


@table_mutator(b"SRAT")
def set_byte(table: bytes, case: Case, rng: Random) -> bytes:
    """Set one byte anywhere after the SRAT's header."""
    if len(table) <= raw.HEADER_SIZE:
        return table
    at = rng.randrange(raw.HEADER_SIZE, len(table))
    value = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return raw.keep_header_truth(table, table[:at] + bytes([value]) + table[at + 1 :])


def _flip(table: bytes, start: int, rng: Random) -> bytes:
    if len(table) <= start:
        return table
    at = rng.randrange(start, len(table))
    changed = bytes([table[at] ^ 1 << rng.randrange(8)])
    return raw.keep_header_truth(table, table[:at] + changed + table[at + 1 :])


@table_mutator(b"SRAT")
def header_length(table: bytes, case: Case, rng: Random) -> bytes:
    """Make the SRAT header's length wrong."""
    lengths = (0, 35, 36, 47, 48, len(table) - 1, len(table) + 1, len(table) + 40, 256 * KIB + 1, 0xFFFFFFFF)
    return table[:4] + (rng.choice(lengths) & 0xFFFFFFFF).to_bytes(4, "little") + table[8:]


@table_mutator(b"SRAT")
def header_checksum(table: bytes, case: Case, rng: Random) -> bytes:
    """Make the SRAT header's checksum wrong."""
    if len(table) < raw.HEADER_SIZE:
        return table
    return table[:9] + bytes([table[9] ^ rng.randrange(1, 256)]) + table[10:]


@table_mutator(b"SRAT")
def header_byte(table: bytes, case: Case, rng: Random) -> bytes:
    """Damage one byte of the SRAT's header."""
    if not table:
        return table
    at = rng.randrange(min(len(table), raw.FIXED_SIZE))
    return table[:at] + bytes([rng.randrange(256)]) + table[at + 1 :]


# The set of tables


@case_mutator
def drop_srat(case: Case, rng: Random) -> Case:
    """Drop the SRAT."""
    return replace(case, tables=tuple(table for table in case.tables if table[:4] != b"SRAT"))


@case_mutator
def second_srat(case: Case, rng: Random) -> Case:
    """Add a second SRAT, before or after the first."""
    table = case.table(b"SRAT")
    if table is None or len(case.tables) > 4:
        return case
    other = raw.keep_header_truth(table, RawSrat(table[:48], raw.cut(table).entries[::-1]).encode())
    return replace(case, tables=(other, *case.tables) if rng.random() < 0.5 else (*case.tables, other))


@case_mutator
def reverse_tables(case: Case, rng: Random) -> Case:
    """Reverse the order of the tables."""
    return replace(case, tables=case.tables[::-1])


# SLIT


@case_mutator
def add_slit(case: Case, rng: Random) -> Case:
    """Add a SLIT of another size than the SRAT's number of domains, or of the same."""
    table = case.table(b"SRAT")
    domains = len(_domains(raw.cut(table).entries)) if table else 1
    count = max(0, domains + rng.choice((-1, 0, 0, 1, 8)))
    new = encode_slit(build_slit([[10 if i == j else 20 for j in range(count)] for i in range(count)]))
    old = case.table(b"SLIT")
    return replace(case, tables=(*case.tables, new)) if old is None else with_table(case, old, new)


@case_mutator
def drop_slit(case: Case, rng: Random) -> Case:
    """Drop the SLIT."""
    return replace(case, tables=tuple(table for table in case.tables if table[:4] != b"SLIT"))


def _distances(table: bytes) -> tuple[int, bytearray]:
    return int.from_bytes(table[36:44], "little"), bytearray(table[44:])


def _set_distance(table: bytes, rng: Random, *, diagonal: bool, values: Sequence[int]) -> bytes:
    count, cells = _distances(table)
    if not 0 < count * count <= len(cells):
        return table
    row = rng.randrange(count)
    column = row if diagonal else rng.randrange(count)
    cells[row * count + column] = rng.choice(values)
    return raw.keep_header_truth(table, table[:44] + bytes(cells))


@table_mutator(b"SLIT")
def slit_diagonal(table: bytes, case: Case, rng: Random) -> bytes:
    """Make one diagonal distance other than 10."""
    return _set_distance(table, rng, diagonal=True, values=(0, 9, 11, 20, 255))


@table_mutator(b"SLIT")
def slit_distance(table: bytes, case: Case, rng: Random) -> bytes:
    """Set one distance to a reserved value, 10, or unreachable."""
    return _set_distance(table, rng, diagonal=False, values=(0, 1, 9, 10, 11, 254, 255))


@table_mutator(b"SLIT")
def slit_asymmetric(table: bytes, case: Case, rng: Random) -> bytes:
    """Make one distance differ from the way back."""
    return _set_distance(table, rng, diagonal=False, values=(15, 21, 31, 40))


@table_mutator(b"SLIT")
def slit_count(table: bytes, case: Case, rng: Random) -> bytes:
    """Make the SLIT claim another number of localities than it has."""
    if len(table) < 44:
        return table
    count, _ = _distances(table)
    claimed = rng.choice((0, 1, count - 1, count + 1, count * 2, 1024, 1 << 32, ADDRESS_LIMIT - 1))
    after = table[:36] + (claimed % ADDRESS_LIMIT).to_bytes(8, "little") + table[44:]
    return raw.keep_header_truth(table, after)


@table_mutator(b"SLIT")
def slit_size(table: bytes, case: Case, rng: Random) -> bytes:
    """Cut the SLIT short or append to it, header to match."""
    if rng.random() < 0.5:
        return raw.keep_header_truth(table, table[: rng.randrange(len(table) + 1)])
    return raw.keep_header_truth(table, table + rng.randbytes(rng.choice((1, 4, 16))))


@table_mutator(b"SLIT")
def slit_flip_bit(table: bytes, case: Case, rng: Random) -> bytes:
    """Flip one bit anywhere after the SLIT's header."""
    return _flip(table, raw.HEADER_SIZE, rng)


# Machine and command line


@case_mutator
def memory_size(case: Case, rng: Random) -> Case:
    """Give the guest another amount of memory, the tables stay."""
    if not isinstance(case.machine, Q35):
        return case
    size = rng.choice((512 * MIB, 1 * GIB, 2 * GIB, 2816 * MIB, 3 * GIB, 4 * GIB, 5 * GIB, 16 * GIB))
    change = rng.choice((-MIB, 0, MIB, SECTION_SIZE))
    return replace(case, machine=Q35(max(512 * MIB, size + change), min(case.machine.initrd, 64 * MIB)))


@case_mutator
def refit_memory(case: Case, rng: Random) -> Case:
    """Give the guest another amount of memory, and its topmost memory entry the new end."""
    smaller = memory_size(case, rng)
    table = smaller.table(b"SRAT")
    if table is None:
        return smaller
    srat = raw.cut(table)
    found = _memories(srat.entries)
    if not found:
        return smaller
    index, top = max(found, key=lambda at: at[1].base)
    end = max(smaller.resolved().e820, key=lambda e: e.end if e.type == "usable" else 0).end
    entries = list(srat.entries)
    entries[index] = replace(top, length=max(PAGE_SIZE, end - top.base)).encode()
    after = RawSrat(srat.head, tuple(entries), srat.tail).encode()
    return with_table(smaller, table, raw.keep_header_truth(table, after))


@case_mutator
def initrd(case: Case, rng: Random) -> Case:
    """Add, remove or resize the initrd."""
    if not isinstance(case.machine, Q35):
        return case
    return replace(case, machine=Q35(case.machine.memory, rng.choice((0, 0, 1, 300_000, MIB, 48 * MIB))))


OPTIONS = (
    ("movable_node",),
    ("kernelcore=512M", "kernelcore=1G", "kernelcore=25%", "kernelcore=100%"),
    ("kernelcore=mirror",),
    ("movablecore=512M", "movablecore=1500M", "movablecore=50%", "movablecore=100%"),
    ("mem=768M", "mem=3G"),
    ("numa=off", "numa=noacpi"),
)
"""Command line options the mutators draw from: first a kind, then one of it."""


@case_mutator
def add_option(case: Case, rng: Random) -> Case:
    """Add a command line option."""
    return replace(case, cmdline=" ".join([*case.cmdline.split(), rng.choice(rng.choice(OPTIONS))][:6]))


@case_mutator
def remove_option(case: Case, rng: Random) -> Case:
    """Remove a command line option."""
    words = case.cmdline.split()
    if not words:
        return case
    del words[rng.randrange(len(words))]
    return replace(case, cmdline=" ".join(words))


@case_mutator
def combine_options(case: Case, rng: Random) -> Case:
    """Make movable_node and one other option the whole command line."""
    return replace(case, cmdline=f"movable_node {rng.choice(rng.choice(OPTIONS[1:]))}")


@case_mutator
def movable_node_only(case: Case, rng: Random) -> Case:
    """Make movable_node the whole command line."""
    return replace(case, cmdline="movable_node")


from acpitk.fuzz import processors, targets  # noqa: E402, F401  (registers more, after those above)
