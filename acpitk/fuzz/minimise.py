"""Make a case smaller while a predicate keeps holding; knows nothing of what the predicate asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

from acpitk.fuzz import raw
from acpitk.fuzz.mutators import with_table
from acpitk.fuzz.raw import ENABLED, Memory, RawSrat
from acpitk.machine import Q35, Case
from acpitk.ranges import GIB, MIB, PAGE_SIZE, SECTION_SIZE, align_down, align_up
from acpitk.tables.header import seal

ROUND_UNITS = (GIB, SECTION_SIZE, 16 * MIB, MIB, PAGE_SIZE)
"""Units addresses are rounded to, roundest first, bytes."""
_MEMORY_SIZES = (512 * MIB, GIB, 2 * GIB, 3 * GIB, 4 * GIB)


def minimise(case: Case, predicate: Callable[[Case], bool], *, budget: int) -> Case:
    """The simplest case found that `predicate` accepts.

    Tried in this order: fewer tables, shorter command line, smaller machine, fewer entries, a tidier table,
    rounder addresses, smaller domain numbers, fewer flags.

    Args:
        case: one that `predicate` accepts.
        predicate: pure; asked at most `budget` times, and never twice about one case.
        budget: 0 returns `case` as it is.

    Returns:
        A case that `predicate` accepts; the same one for the same arguments.
    """
    tried = {case}
    progress = True
    while progress:
        progress = False
        for step in _STEPS:
            candidates = step(case)
            while (candidate := next(candidates, None)) is not None:
                if candidate in tried:
                    continue
                if len(tried) > budget:
                    return case
                tried.add(candidate)
                if predicate(candidate):
                    case, progress = candidate, True
                    candidates = step(case)
    return case


def _fewer_tables(case: Case) -> Iterator[Case]:
    for at in reversed(range(len(case.tables))):
        yield replace(case, tables=case.tables[:at] + case.tables[at + 1 :])


def _shorter_cmdline(case: Case) -> Iterator[Case]:
    words = case.cmdline.split()
    if words:
        yield replace(case, cmdline="")
        yield replace(case, cmdline="movable_node")
    for at in range(len(words)):
        yield replace(case, cmdline=" ".join(words[:at] + words[at + 1 :]))


def _smaller_machine(case: Case) -> Iterator[Case]:
    """Less memory and no initrd, with the SRAT as it is and with the SRAT cut to what is left."""
    if not isinstance(case.machine, Q35):
        return
    if case.machine.initrd:
        yield replace(case, machine=Q35(case.machine.memory))
    for size in _MEMORY_SIZES:
        if size < case.machine.memory:
            smaller = Q35(size, min(case.machine.initrd, size // 2))
            yield replace(case, machine=smaller)
            clip = partial(_clipped, end=smaller.ram[-1].end)
            yield from _edited(replace(case, machine=smaller), clip)


def _clipped(srat: RawSrat, end: int) -> Iterator[tuple[bytes, ...]]:
    yield tuple(
        entry if found is None else replace(found, length=min(found.end, end) - found.base).encode()
        for entry in srat.entries
        if (found := raw.memory(entry)) is None or found.base < end
    )


def _fewer_entries(srat: RawSrat) -> Iterator[tuple[bytes, ...]]:
    entries, size = srat.entries, len(srat.entries)
    while size:
        for at in range(0, len(entries), size):
            yield entries[:at] + entries[at + size :]
        size //= 2
    found = sorted(srat.memories(), key=lambda each: each[1].base)
    for (i, low), (j, high) in pairwise(found):
        for kept in (low, high):
            merged = replace(kept, base=low.base, length=max(low.end, high.end) - low.base)
            out = list(entries)
            out[i] = merged.encode()
            del out[j]
            yield tuple(out)


def _rounder_addresses(srat: RawSrat) -> Iterator[tuple[bytes, ...]]:
    """Move one edge, wherever it occurs, to a rounder address, so that what touches still touches."""
    edges = {edge for _, entry in srat.memories() for edge in (entry.base, entry.end)}
    for unit in ROUND_UNITS:
        for edge in sorted(edge for edge in edges if edge % unit):
            for to in (align_down(edge, unit), align_up(edge, unit)):
                yield tuple(_moved(entry, edge, to) for entry in srat.entries)


def _moved(entry: bytes, edge: int, to: int) -> bytes:
    found = raw.memory(entry)
    if found is None or edge not in (found.base, found.end):
        return entry
    base = to if found.base == edge else found.base
    end = to if found.end == edge else found.end
    return replace(found, base=base, length=max(end - base, 0)).encode()


def _smaller_domains(srat: RawSrat) -> Iterator[tuple[bytes, ...]]:
    domains = {found for entry in srat.entries if (found := raw.domain(entry)) is not None}
    for domain in sorted(domains, reverse=True):
        for to in range(min(domain, len(domains))):
            if to not in domains:
                yield tuple(
                    raw.with_domain(entry, to) if raw.domain(entry) == domain else entry
                    for entry in srat.entries
                )


def _plainer_entries(srat: RawSrat) -> Iterator[tuple[bytes, ...]]:
    """Fewer flags, then nothing in reserved fields and no bytes beyond the type's own."""
    for at, entry in enumerate(srat.entries):
        before, after = srat.entries[:at], srat.entries[at + 1 :]
        flags = raw.flags(entry) or 0
        for plainer in (ENABLED, *(flags & ~(1 << bit) for bit in reversed(range(1, 32)))):
            if flags & ~ENABLED and plainer != flags:
                yield (*before, raw.with_flags(entry, plainer), *after)
        if (found := raw.memory(entry)) is not None:
            yield (*before, Memory(found.domain, found.base, found.length, found.flags).encode(), *after)


def _plainer_table(case: Case) -> Iterator[Case]:
    """No bytes after the entries, revision 3, a right header."""
    table = case.table(b"SRAT")
    if table is None or len(table) < raw.FIXED_SIZE:
        return
    srat = raw.cut(table)
    yield with_table(case, table, raw.keep_header_truth(table, table[: len(table) - len(srat.tail)]))
    yield with_table(case, table, raw.keep_header_truth(table, table[:8] + b"\x03" + table[9:]))
    yield with_table(case, table, seal(table))


Edit = Callable[[RawSrat], Iterator[tuple[bytes, ...]]]


def _edited(case: Case, edit: Edit) -> Iterator[Case]:
    table = case.table(b"SRAT")
    if table is None:
        return
    srat = raw.cut(table)
    for entries in edit(srat):
        after = raw.keep_header_truth(table, RawSrat(srat.head, entries, srat.tail).encode())
        yield with_table(case, table, after)


_STEPS: tuple[Callable[[Case], Iterator[Case]], ...] = (
    _fewer_tables,
    _shorter_cmdline,
    _smaller_machine,
    partial(_edited, edit=_fewer_entries),
    _plainer_table,
    partial(_edited, edit=_rounder_addresses),
    partial(_edited, edit=_smaller_domains),
    partial(_edited, edit=_plainer_entries),
)
