"""Make a case smaller while a predicate keeps holding; knows nothing of what the predicate asks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

from acpitk.fuzz import raw
from acpitk.fuzz.raw import ENABLED, Memory, RawSrat
from acpitk.fuzz.registry import with_table
from acpitk.machine import Q35, Case
from acpitk.ranges import GIB, MIB, PAGE_SIZE, SECTION_SIZE, align_down, align_up
from acpitk.tables.header import seal
from acpitk.tables.slit import build_slit, encode_slit
from acpitk.tables.srat import build_srat, encode_srat

ROUND_UNITS = (GIB, SECTION_SIZE, 16 * MIB, MIB, PAGE_SIZE)
"""Units addresses are rounded to, roundest first, bytes."""
_GUIDE_BUDGET = 3000
"""How often a guide may be asked."""
_SLIT_FIXED = 44
_MEMORY_SIZES = (256 * MIB, 512 * MIB, GIB, 2 * GIB, 3 * GIB, 4 * GIB)


Guide = Callable[[Case], object]
"""A cheap forecast of a costly judge: cases of one forecast are likely judged alike; None says nothing."""


def minimise(
    case: Case, predicate: Callable[[Case], bool], *, budget: int, guide: Guide | None = None
) -> Case:
    """The simplest case found that `predicate` accepts.

    Tried in this order: fewer tables, shorter command line, smaller machine, fewer entries, tidier tables,
    rounder addresses, smaller domain numbers, fewer flags.

    Args:
        case: one that `predicate` accepts.
        predicate: pure; asked at most `budget` times, and never twice about one case.
        budget: 0 returns `case` as it is.
        guide: pure; where it forecasts something of `case`, the simplest case with the same forecast is
            looked for first. Where `predicate` accepts that one, it is where the search begins.

    Returns:
        A case that `predicate` accepts; the same one for the same arguments.
    """
    if guide is not None and budget and (forecast := guide(case)) is not None:
        alike = minimise(case, lambda other: guide(other) == forecast, budget=_GUIDE_BUDGET)
        if alike != case and predicate(alike):
            case, budget = alike, budget - 1
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
    """Without half of them, or with half of the memory entries joined; then quarters, and so on."""
    entries, size = srat.entries, len(srat.entries)
    found = sorted(srat.memories(), key=lambda each: each[1].base)
    while size:
        for at in range(0, len(entries), size):
            yield entries[:at] + entries[at + size :]
        for at in range(0, len(found), size) if size > 2 else ():
            yield from _merged(entries, found[at : at + size])
        size //= 2
    for pair in pairwise(found):
        yield from _merged(entries, pair)


def _merged(entries: tuple[bytes, ...], run: Sequence[tuple[int, Memory]]) -> Iterator[tuple[bytes, ...]]:
    """One entry in place of a run of neighbours, with the domain and flags of the lowest or the highest."""
    base, end = run[0][1].base, max(entry.end for _, entry in run)
    gone = {at for at, _ in run[1:]}
    for _, kept in (run[0], run[-1]):
        merged = replace(kept, base=base, length=end - base).encode()
        yield tuple(merged if at == run[0][0] else e for at, e in enumerate(entries) if at not in gone)


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
    """No bytes after the entries, revision 3, a right header, and the OEM fields of acpitk's own tables."""
    table = case.table(b"SRAT")
    if table is None or len(table) < raw.FIXED_SIZE:
        return
    srat = raw.cut(table)
    yield with_table(case, table, raw.keep_header_truth(table, table[: len(table) - len(srat.tail)]))
    yield with_table(case, table, raw.keep_header_truth(table, table[:8] + b"\x03" + table[9:]))
    yield with_table(case, table, seal(table))
    plain = encode_srat(build_srat(()))[: raw.FIXED_SIZE]
    yield with_table(case, table, seal(plain + table[raw.FIXED_SIZE :]))
    yield with_table(case, table, seal(table[:8] + plain[8:] + table[raw.FIXED_SIZE :]))


def _plainer_slit(case: Case) -> Iterator[Case]:
    """Fewer localities, a count of few bits, distances of 10 and 20, nothing behind them."""
    table = case.table(b"SLIT")
    if table is None or len(table) < _SLIT_FIXED:
        return
    claimed = int.from_bytes(table[36:_SLIT_FIXED], "little")
    side = math.isqrt(len(table) - _SLIT_FIXED)
    for count in (1, 2, 3, side - 1, side):
        if 0 < count <= side:
            rows = [[10 if i == j else 20 for j in range(count)] for i in range(count)]
            yield with_table(case, table, plain := encode_slit(build_slit(rows)))
            yield with_table(case, table, seal(plain[:36] + table[36:_SLIT_FIXED] + plain[_SLIT_FIXED:]))
    yield with_table(case, table, seal(table[:_SLIT_FIXED]))
    for fewer in (claimed & ~0xFFFFFFFF, *(claimed & ~(1 << bit) for bit in range(64) if claimed >> bit & 1)):
        if fewer != claimed:
            after = table[:36] + fewer.to_bytes(8, "little") + table[_SLIT_FIXED:]
            yield with_table(case, table, raw.keep_header_truth(table, after))
    for at in range(_SLIT_FIXED, min(len(table), _SLIT_FIXED + side * side)):
        usual = 10 if (at - _SLIT_FIXED) % (side + 1) == 0 else 20
        if table[at] != usual:
            after = table[:at] + bytes([usual]) + table[at + 1 :]
            yield with_table(case, table, raw.keep_header_truth(table, after))


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
    _plainer_slit,
    partial(_edited, edit=_rounder_addresses),
    partial(_edited, edit=_smaller_domains),
    partial(_edited, edit=_plainer_entries),
)
