"""One table against ACPI 6.6, tables against each other, and tables against the memory map.

Errors and warnings are what firmware has wrong; what is only worth knowing is a note. Disabled entries
are not judged beyond their length: real firmware ships hundreds of them. Findings say what Linux does about
it, but the judgement here is the specification's; `invariants` judges what Linux makes of a whole case.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from acpitk.checks.catalogue import finding
from acpitk.checks.finding import Finding, Severity
from acpitk.errors import DecodeError
from acpitk.machine import E820Type, Machine
from acpitk.ranges import ADDRESS_LIMIT, KIB, MIB, PAGE_SIZE, SECTION_SIZE, align_down, align_up
from acpitk.tables.header import HEADER_SIZE, TableHeader, checksum_valid, decode_header
from acpitk.tables.slit import FIXED_SIZE as SLIT_FIXED_SIZE
from acpitk.tables.slit import LOCAL, UNREACHABLE, Slit, decode_slit
from acpitk.tables.slit import SIGNATURE as SLIT
from acpitk.tables.srat import FIXED_SIZE as SRAT_FIXED_SIZE
from acpitk.tables.srat import SIGNATURE as SRAT
from acpitk.tables.srat import (
    SUBTABLE_HEADER_SIZE,
    SUBTABLES,
    AcpiHandle,
    Entry,
    GenericInitiatorAffinity,
    GenericPortAffinity,
    GiccAffinity,
    ItsAffinity,
    KnownEntry,
    MemoryAffinity,
    MemoryFlags,
    PciHandle,
    ProcessorAffinity,
    RintcAffinity,
    Srat,
    UnknownEntry,
    UnknownHandle,
    X2ApicAffinity,
    decode_srat,
)

KNOWN_SRAT_REVISIONS = (1, 2, 3)
NEWER_SRAT_REVISION = 4
"""ACPI 6.7 draft."""
_MAX_MAPPED = 256 * KIB
_LINUX_MEMORY_ENTRIES = 2048
_LINUX_DOMAINS = 1024
_COVERAGE_TOLERANCE = MIB
_ALL_PROCESSORS = 255
_BEFORE_ACPI_MEMORY_TYPE = 1
"""The dword at byte 24 of a memory entry was a memory type before ACPI took the SRAT over."""
_LENGTH_OFFSET, _REVISION_OFFSET, _CHECKSUM_OFFSET = 4, 8, 9
_COUNT_OFFSET = 36
_LISTED = 3

_HEADER_RULES: Mapping[bytes, tuple[str, str]] = {
    SRAT: ("SRAT-LENGTH", "SRAT-CHECKSUM"),
    SLIT: ("SLIT-LENGTH", "SLIT-CHECKSUM"),
}
_WITHOUT_HEADER = (b"FACS", b"RSD ")
"""Structures that are not tables with the common header."""


@dataclass(frozen=True, slots=True)
class _Place:
    """An entry and where it is; `domain` is masked to 8 bits in a revision 1 table."""

    index: int
    offset: int
    entry: KnownEntry
    domain: int

    def __str__(self) -> str:
        return f"entry {self.index} ({SUBTABLES[self.entry.type].label})"


@dataclass(frozen=True, slots=True)
class _Range:
    """An enabled, non-empty memory entry that does not wrap."""

    place: _Place
    start: int
    end: int
    domain: int
    flags: MemoryFlags


def lint(tables: Mapping[str, bytes] | Sequence[bytes], *, machine: Machine | None = None) -> list[Finding]:
    """Judge tables.

    Args:
        tables: raw tables in root-table order; a mapping's keys name them in findings, otherwise their
            signatures do. Tables other than SRAT and SLIT get the header checks only.
        machine: check the SRAT against this memory map too.

    Returns:
        Findings in table order; `offset` is from the start of the table that `where` begins with.
    """
    named = list(tables.items()) if isinstance(tables, Mapping) else [(_name(data), data) for data in tables]
    found: list[Finding] = []
    srats: list[tuple[str, Srat]] = []
    slits: list[tuple[str, Slit]] = []
    for name, data in named:
        found += _header(name, data)
        try:
            if data[:4] == SRAT:
                srats.append((name, decode_srat(data)))
                found += _srat(*srats[-1])
            elif data[:4] == SLIT:
                slits.append((name, decode_slit(data)))
                found += _slit(*slits[-1])
        except DecodeError as error:
            found.append(_unreadable(name, str(error), len(data)))
    found += _duplicates(named)
    if srats and slits:
        found += _domains_and_localities(srats[0][1], *slits[0])
    if srats and machine is not None:
        found += _memory_map(*srats[0], machine)
    return found


def _name(data: bytes) -> str:
    return data[:4].decode("ascii", "backslashreplace") or "empty table"


def _more(items: Iterable[object], count: int) -> str:
    shown = ", ".join(str(item) for item in islice(items, _LISTED))
    return f"{shown} and {count - _LISTED} more" if count > _LISTED else shown


def _group(
    rule: str,
    name: str,
    places: Sequence[_Place],
    *,
    expected: str,
    actual: str,
    severity: Severity | None = None,
    cause: str = "",
) -> Iterator[Finding]:
    """One finding for all `places`, none where there are none; `offset` is the first's."""
    if places:
        yield finding(
            rule,
            severity=severity,
            where=f"{name} {_more(places, len(places))}",
            offset=places[0].offset,
            expected=expected,
            actual=actual,
            cause=cause,
        )


def _unreadable(name: str, problem: str, size: int) -> Finding:
    return finding(
        "TABLE-UNREADABLE", where=name, offset=size, expected="the fixed part of the table", actual=problem
    )


def _header(name: str, data: bytes) -> Iterator[Finding]:
    if data[:4] in _WITHOUT_HEADER:
        return
    if len(data) < HEADER_SIZE:
        if data[:4] not in _HEADER_RULES:
            yield _unreadable(name, f"{len(data)} bytes, a header takes {HEADER_SIZE}", len(data))
        return
    length_rule, checksum_rule = _HEADER_RULES.get(data[:4], ("TABLE-LENGTH", "TABLE-CHECKSUM"))
    length = decode_header(data, path=name).length
    if length != len(data):
        yield finding(
            length_rule,
            where=f"{name} header, Length",
            offset=_LENGTH_OFFSET,
            expected=f"{len(data)} bytes",
            actual=f"{length} bytes",
            cause="longer than the table" if length > len(data) else "shorter than the table",
        )
    table = data[:length]
    if len(table) == length >= HEADER_SIZE and not checksum_valid(table):
        yield finding(
            checksum_rule,
            where=f"{name} header, Checksum",
            offset=_CHECKSUM_OFFSET,
            expected=f"{(table[_CHECKSUM_OFFSET] - sum(table)) & 0xFF:#04x}",
            actual=f"{table[_CHECKSUM_OFFSET]:#04x}",
        )


def _duplicates(named: Iterable[tuple[str, bytes]]) -> Iterator[Finding]:
    first: dict[bytes, str] = {}
    for name, data in named:
        if (signature := data[:4]) not in _HEADER_RULES:
            continue
        if signature in first:
            yield finding(
                "TABLE-DUPLICATE",
                where=name,
                offset=0,
                expected="one table of each signature",
                actual=f"{first[signature]} comes first and is used",
                cause=_name(signature),
            )
        else:
            first[signature] = name


def _srat(name: str, srat: Srat) -> Iterator[Finding]:
    yield from _srat_header(name, srat)
    yield from _entry_shapes(name, srat)
    places = _enabled(srat)
    yield from _reserved_fields(name, places)
    yield from _domains(name, places, srat.header)
    yield from _processors(name, places)
    yield from _devices(name, srat, places)
    yield from _memory(name, srat, places)


def _srat_header(name: str, srat: Srat) -> Iterator[Finding]:
    revision = srat.header.revision
    if revision not in KNOWN_SRAT_REVISIONS:
        yield finding(
            "SRAT-REVISION",
            severity=Severity.NOTE if revision == NEWER_SRAT_REVISION else None,
            where=f"{name} header, Revision",
            offset=_REVISION_OFFSET,
            expected="1, 2 or 3",
            actual=f"{revision}, newer than ACPI 6.6"
            if revision > KNOWN_SRAT_REVISIONS[-1]
            else str(revision),
        )
    if srat.header.length > _MAX_MAPPED:
        yield finding(
            "SRAT-TOO-BIG",
            where=f"{name} header, Length",
            offset=_LENGTH_OFFSET,
            expected="at most 262144 bytes",
            actual=f"{srat.header.length} bytes",
        )
    for field, offset, value, wanted in (
        ("Table Revision", HEADER_SIZE, srat.table_revision, 1),
        ("Reserved", HEADER_SIZE + 4, srat.reserved, 0),
    ):
        if value != wanted:
            yield finding(
                "SRAT-HEADER-RESERVED",
                where=f"{name} {field}",
                offset=offset,
                expected=str(wanted),
                actual=f"{value:#x}",
                cause=field,
            )


def _entry_shapes(name: str, srat: Srat) -> Iterator[Finding]:
    """Types, lengths, and what follows the last entry."""
    unknown: dict[int, list[tuple[int, int]]] = {}
    end = SRAT_FIXED_SIZE
    for index, (offset, entry) in enumerate(srat.located()):
        end = offset + (len(entry.raw) if isinstance(entry, UnknownEntry) else entry.declared_length)
        if isinstance(entry, UnknownEntry):
            if entry.type in SUBTABLES:
                yield _short(name, index, offset, entry.type, entry.declared_length)
            else:
                unknown.setdefault(entry.type, []).append((index, offset))
        elif entry.extra:
            size = SUBTABLES[entry.type].layout.size
            yield finding(
                "SRAT-ENTRY-LONG",
                severity=Severity.ERROR if entry.type == ProcessorAffinity.type else None,
                where=f"{name} entry {index} ({SUBTABLES[entry.type].label}), Length",
                offset=offset + 1,
                expected=f"{size} bytes",
                actual=f"{entry.declared_length} bytes",
                cause=f"type {entry.type}",
            )
    for kind, rows in unknown.items():
        yield finding(
            "SRAT-ENTRY-TYPE",
            where=f"{name} entry {_more((index for index, _ in rows), len(rows))}",
            offset=rows[0][1],
            expected="a type from 0 to 7",
            actual=f"type {kind}",
        )
    if srat.trailing:
        yield _trailing(name, len(srat.entries), end, srat.trailing)


def _short(name: str, index: int, offset: int, kind: int, length: int) -> Finding:
    row = SUBTABLES.get(kind)
    return finding(
        "SRAT-ENTRY-SHORT",
        where=f"{name} entry {index} ({row.label if row else f'type {kind}'}), Length",
        offset=offset + 1,
        expected=f"{row.layout.size if row else SUBTABLE_HEADER_SIZE} bytes",
        actual=f"{length} byte{'' if length == 1 else 's'}",
        cause=f"type {kind}" if row else "unknown type",
    )


def _trailing(name: str, index: int, offset: int, tail: bytes) -> Finding:
    """The walk ended at `tail`: the strict end test of Linux passes over one as short as an entry header."""
    if len(tail) <= SUBTABLE_HEADER_SIZE:
        return finding(
            "SRAT-TRAILING",
            where=f"{name} after entry {index - 1}" if index else f"{name} after the fixed part",
            offset=offset,
            expected="the end of the table",
            actual=f"{len(tail)} more byte{'' if len(tail) == 1 else 's'}",
        )
    kind, length = tail[0], tail[1]
    if length == 0:
        return finding(
            "SRAT-ENTRY-ZERO",
            where=f"{name} entry {index} (type {kind}), Length",
            offset=offset + 1,
            expected="the length of the entry",
            actual=f"0, with {len(tail)} bytes of the table left",
        )
    if length < SUBTABLE_HEADER_SIZE:
        return _short(name, index, offset, kind, length)
    return finding(
        "SRAT-ENTRY-OVERRUN",
        where=f"{name} entry {index} (type {kind}), Length",
        offset=offset + 1,
        expected=f"at most the {len(tail)} bytes that are left",
        actual=f"{length} bytes",
    )


def _enabled(srat: Srat) -> list[_Place]:
    """Enabled entries of known types; ITS entries have no flags and count as enabled."""
    mask = 0xFF if srat.header.revision <= 1 else 0xFFFFFFFF
    return [
        _Place(index, offset, entry, entry.proximity_domain & mask)
        for index, (offset, entry) in enumerate(srat.located())
        if not isinstance(entry, UnknownEntry) and (isinstance(entry, ItsAffinity) or entry.flags & 1)
    ]


def _reserved_fields(name: str, places: Iterable[_Place]) -> Iterator[Finding]:
    groups: dict[tuple[int, str, Severity], list[_Place]] = {}
    for place in places:
        for field, severity in _reserved(place.entry):
            groups.setdefault((place.entry.type, field, severity), []).append(place)
    for (kind, field, severity), rows in groups.items():
        yield from _group(
            "SRAT-RESERVED",
            name,
            rows,
            severity=severity,
            expected="0 in reserved bits",
            actual=f"{field} has others",
            cause=f"type {kind} {field}",
        )


def _reserved(entry: KnownEntry) -> Iterator[tuple[str, Severity]]:
    """Reserved fields of `entry` that are not zero, and how bad that is."""
    if not isinstance(entry, ItsAffinity) and int(entry.flags) & ~sum(map(int, type(entry.flags))):
        yield "Flags", Severity.WARNING
    for field in ("reserved", "reserved1", "reserved2", "reserved3"):
        if value := getattr(entry, field, 0):
            old = (
                field == "reserved2"
                and isinstance(entry, MemoryAffinity)
                and value == _BEFORE_ACPI_MEMORY_TYPE
            )
            yield field.title(), Severity.NOTE if old else Severity.WARNING
    handle = getattr(entry, "handle", None)
    if (isinstance(handle, AcpiHandle) and handle.reserved) or (
        isinstance(handle, PciHandle) and any(handle.reserved)
    ):
        yield "Device Handle", Severity.WARNING


def _domains(name: str, places: Sequence[_Place], header: TableHeader) -> Iterator[Finding]:
    if header.revision <= 1:
        for place in places:
            if place.domain != place.entry.proximity_domain:
                yield finding(
                    "SRAT-PXM-REVISION",
                    where=f"{name} {place}, Proximity Domain",
                    offset=place.offset + 2,
                    expected="at most 255 in a revision 1 table",
                    actual=str(place.entry.proximity_domain),
                )
    high = [place for place in places if place.domain >= _LINUX_DOMAINS]
    yield from _group(
        "SRAT-PXM-LIMIT",
        name,
        high,
        expected=f"proximity domains below {_LINUX_DOMAINS}",
        actual=f"proximity domain {max(place.domain for place in high)}" if high else "",
    )
    used = sorted({place.domain for place in places})
    if used and used[-1] != len(used) - 1:
        after = next(domain for index, domain in enumerate(used) if domain != index)
        place = next(place for place in places if place.domain == after)
        missing = used[-1] + 1 - len(used)
        yield finding(
            "SRAT-DOMAIN-GAP",
            where=f"{name} {place}",
            offset=place.offset,
            expected="proximity domains numbered from 0 without gaps",
            actual=f"{missing} missing below {used[-1]}, the first is {used.index(after)}",
        )


def _processors(name: str, places: Sequence[_Place]) -> Iterator[Finding]:
    seen: dict[tuple[str, int, int], _Place] = {}
    small = []
    for place in places:
        key = _processor(place.entry)
        if key is None:
            continue
        other = seen.setdefault(key, place)
        if other.domain != place.domain:
            yield finding(
                "SRAT-CPU-DUPLICATE",
                where=f"{name} {place}",
                offset=place.offset,
                expected=f"{key[0]} {key[1]} in one proximity domain",
                actual=f"domain {other.domain} in {other}, domain {place.domain} here",
            )
        if isinstance(place.entry, X2ApicAffinity) and place.entry.x2apic_id < _ALL_PROCESSORS:
            small.append(place)
    yield from _group(
        "SRAT-X2APIC-ID", name, small, expected="type 0 for IDs below 255", actual=f"{len(small)} of type 2"
    )


def _processor(entry: Entry) -> tuple[str, int, int] | None:
    """What identifies the processor, None for entries of other things or of all processors."""
    match entry:
        case ProcessorAffinity():
            return None if entry.apic_id == _ALL_PROCESSORS else ("APIC ID", entry.apic_id, entry.sapic_eid)
        case X2ApicAffinity():
            return "APIC ID", entry.x2apic_id, 0
        case GiccAffinity() | RintcAffinity():
            return "processor UID", entry.acpi_processor_uid, entry.type
        case _:
            return None


def _devices(name: str, srat: Srat, places: Sequence[_Place]) -> Iterator[Finding]:
    for place in places:
        entry = place.entry
        if isinstance(entry, GenericInitiatorAffinity | GenericPortAffinity) and isinstance(
            entry.handle, UnknownHandle
        ):
            yield finding(
                "SRAT-HANDLE-TYPE",
                where=f"{name} {place}, Device Handle Type",
                offset=place.offset + 3,
                expected="0 (ACPI) or 1 (PCI)",
                actual=str(entry.handle.type),
            )
    processors = [place for place in places if isinstance(place.entry, ProcessorAffinity | X2ApicAffinity)]
    for index, (offset, initiator) in enumerate(srat.located()):
        if isinstance(initiator, GenericInitiatorAffinity) and not initiator.flags & 1:
            later = [place for place in processors if place.index > index]
            if later:
                yield finding(
                    "SRAT-GI-DISABLED",
                    where=f"{name} entry {index} ({SUBTABLES[initiator.type].label})",
                    offset=offset,
                    expected="processor entries before a disabled generic initiator",
                    actual=f"{len(later)} after it, which Linux does not read",
                )
            return


def _memory(name: str, srat: Srat, places: Iterable[_Place]) -> Iterator[Finding]:
    ranges = []
    empty = []
    enabled = 0
    for place in places:
        entry = place.entry
        if not isinstance(entry, MemoryAffinity):
            continue
        enabled += 1
        end = entry.base + entry.length
        if entry.length == 0:
            empty.append(place)
        elif end >= ADDRESS_LIMIT:
            yield finding(
                "SRAT-MEM-WRAP",
                where=f"{name} {place}",
                offset=place.offset,
                expected="a range that ends below 2^64",
                actual=f"base {entry.base:#x} plus length {entry.length:#x}",
                cause="hot-pluggable" if entry.flags & MemoryFlags.HOT_PLUGGABLE else "",
            )
        else:
            ranges.append(_Range(place, entry.base, end, place.domain, entry.flags))
    yield from _group("SRAT-MEM-EMPTY", name, empty, expected="memory", actual="length 0, enabled")
    if not enabled:
        yield finding(
            "SRAT-NO-MEMORY",
            where=name,
            offset=SRAT_FIXED_SIZE,
            expected="an enabled memory entry",
            actual=f"none among {len(srat.entries)} entries",
        )
    if len(ranges) > _LINUX_MEMORY_ENTRIES:
        yield finding(
            "SRAT-TOO-MANY",
            where=f"{name} {ranges[_LINUX_MEMORY_ENTRIES].place}",
            offset=ranges[_LINUX_MEMORY_ENTRIES].place.offset,
            expected=f"at most {_LINUX_MEMORY_ENTRIES} non-empty memory entries",
            actual=str(len(ranges)),
        )
    yield from _alignment(name, ranges)
    yield from _overlaps(name, ranges)


def _alignment(name: str, ranges: Sequence[_Range]) -> Iterator[Finding]:
    hot = [r for r in ranges if r.flags & MemoryFlags.HOT_PLUGGABLE]
    yield from _group(
        "SRAT-MEM-PAGE",
        name,
        [r.place for r in ranges if (r.start | r.end) % PAGE_SIZE],
        expected="bounds at multiples of 4 KiB",
        actual="a page is cut",
    )
    yield from _group(
        "SRAT-MEM-BLOCK",
        name,
        [r.place for r in hot if (r.start | r.end) % SECTION_SIZE],
        expected="hot-pluggable bounds at multiples of 128 MiB",
        actual="a memory block is shared with what lies beside it",
    )
    if len(hot) == len(ranges):
        yield from _group(
            "SRAT-ALL-HOT",
            name,
            [r.place for r in hot],
            expected="some memory without Hot Pluggable",
            actual="every enabled entry has it",
        )


def _overlaps(name: str, ranges: Iterable[_Range]) -> Iterator[Finding]:
    """Each entry against the farthest-reaching one below it, of its own domain and of another."""
    reach: dict[int, _Range] = {}
    far: _Range | None = None
    runner_up: _Range | None = None
    for row in sorted(ranges, key=lambda r: (r.start, r.end)):
        foreign = far if far is not None and far.domain != row.domain else runner_up
        for other, rule in ((foreign, "SRAT-MEM-OVERLAP"), (reach.get(row.domain), "SRAT-MEM-OVERLAP-SAME")):
            if other is None or other.end <= row.start:
                continue
            shared = f"{row.start:#x}-{min(row.end, other.end):#x}"
            yield finding(
                rule,
                where=f"{name} {row.place}",
                offset=row.place.offset,
                expected="memory no other entry describes",
                actual=f"{shared} is in {other.place} too"
                + (f", domains {row.domain} and {other.domain}" if row.domain != other.domain else ""),
            )
            if other.flags != row.flags:
                yield finding(
                    "SRAT-MEM-FLAGS",
                    where=f"{name} {row.place}, Flags",
                    offset=row.place.offset + 28,
                    expected=f"{int(other.flags):#x} as in {other.place}, for {shared}",
                    actual=f"{int(row.flags):#x}",
                )
        if row.domain not in reach or row.end > reach[row.domain].end:
            reach[row.domain] = row
        if far is None or row.end > far.end:
            if far is not None and far.domain != row.domain:
                runner_up = far
            far = row
        elif row.domain != far.domain and (runner_up is None or row.end > runner_up.end):
            runner_up = row


def _slit(name: str, slit: Slit) -> Iterator[Finding]:
    if slit.header.revision != 1:
        yield finding(
            "SLIT-REVISION",
            where=f"{name} header, Revision",
            offset=_REVISION_OFFSET,
            expected="1",
            actual=str(slit.header.revision),
        )
    count = slit.localities
    if len(slit.entries) < count**2:
        yield finding(
            "SLIT-COUNT",
            where=f"{name} Number of System Localities",
            offset=_COUNT_OFFSET,
            expected=f"{count} localities need {count**2} bytes",
            actual=f"{len(slit.entries)} bytes",
        )
    if slit.trailing:
        yield finding(
            "SLIT-TRAILING",
            severity=None if any(slit.trailing) else Severity.NOTE,
            where=f"{name} after the matrix",
            offset=SLIT_FIXED_SIZE + len(slit.entries),
            expected="the end of the table",
            actual=f"{len(slit.trailing)} more bytes" + ("" if any(slit.trailing) else ", all zero"),
        )
    cells: dict[str, list[int]] = {}
    for index, distance in enumerate(slit.entries):
        row, column = divmod(index, count)
        if row == column:
            if distance != LOCAL:
                cells.setdefault("SLIT-DIAGONAL", []).append(index)
        elif distance < LOCAL:
            cells.setdefault("SLIT-DISTANCE", []).append(index)
        elif distance == LOCAL:
            cells.setdefault("SLIT-REMOTE", []).append(index)
        elif distance == UNREACHABLE:
            cells.setdefault("SLIT-UNREACHABLE", []).append(index)
        if row > column and distance != slit.entries[column * count + row]:
            cells.setdefault("SLIT-ASYMMETRIC", []).append(index)
    expected = {
        "SLIT-DIAGONAL": "10 from a locality to itself",
        "SLIT-DISTANCE": "a distance above 10, or 255",
        "SLIT-REMOTE": "a distance above 10, or 255",
        "SLIT-UNREACHABLE": "a path between localities",
        "SLIT-ASYMMETRIC": "the distance of the way there",
    }
    for rule, indices in cells.items():
        places = (f"[{i // count}][{i % count}]" for i in indices)
        yield finding(
            rule,
            where=f"{name} entry {_more(places, len(indices))}",
            offset=SLIT_FIXED_SIZE + indices[0],
            expected=expected[rule],
            actual=_more((slit.entries[i] for i in indices), len(indices)),
        )


def _domains_and_localities(srat: Srat, name: str, slit: Slit) -> Iterator[Finding]:
    used = {place.domain for place in _enabled(srat)}
    if missing := sorted(domain for domain in used if domain >= slit.localities):
        yield finding(
            "SLIT-DOMAIN-MISSING",
            where=f"{name} Number of System Localities",
            offset=_COUNT_OFFSET,
            expected=f"more than {missing[-1]}, the highest enabled proximity domain of the SRAT",
            actual=f"{slit.localities}: no row for domain {_more(missing, len(missing))}",
        )
    if (extra := slit.localities - sum(domain < slit.localities for domain in used)) > 0:
        first = next(domain for domain in range(slit.localities) if domain not in used)
        yield finding(
            "SLIT-DOMAIN-EXTRA",
            where=f"{name} Number of System Localities",
            offset=_COUNT_OFFSET,
            expected=f"{len(used)} enabled proximity domains",
            actual=f"{slit.localities} localities, {extra} without an enabled domain: the first is {first}",
        )


def _memory_map(name: str, srat: Srat, machine: Machine) -> Iterator[Finding]:
    ram = usable_ram(machine)
    ranges = []
    without_ram = []
    for place in _enabled(srat):
        entry = place.entry
        if not isinstance(entry, MemoryAffinity) or not entry.length:
            continue
        end = entry.base + entry.length
        if end >= ADDRESS_LIMIT:
            continue
        if _ram_inside(ram, entry.base, end):
            ranges.append(_Range(place, entry.base, end, place.domain, entry.flags))
        else:
            without_ram.append(place)
    yield from _group(
        "MAP-NO-RAM", name, without_ram, expected="RAM of the memory map in the range", actual="none"
    )
    if not ranges:
        return
    lost: list[tuple[int, int]] = []
    swallowed: list[tuple[int, int]] = []
    by_end = sorted(ranges, key=lambda r: r.end)
    ranges.sort(key=lambda r: r.start)
    ends, starts = [r.end for r in by_end], [r.start for r in ranges]
    last = None
    for start, end in _uncovered(ram, ranges):
        below, above = bisect_right(ends, start) - 1, bisect_left(starts, end)
        inside = below >= 0 and above < len(ranges) and by_end[below].domain == ranges[above].domain
        (swallowed if inside else lost).append((start, end))
        last = last or (by_end[below] if below >= 0 else ranges[0]).place
    for rule, pieces in (("MAP-UNCOVERED", lost), ("MAP-SWALLOWED", swallowed)):
        if not pieces or last is None:
            continue
        size = sum(end - start for start, end in pieces)
        fate = "the NUMA configuration is dropped" if size >= _COVERAGE_TOLERANCE else "Linux panics"
        yield finding(
            rule,
            where=f"{name} near {last}: " + _more((f"{a:#x}-{b:#x}" for a, b in pieces), len(pieces)),
            offset=last.offset,
            expected="an enabled memory entry for all RAM",
            actual=f"{size // KIB} KiB without one"
            + (f": {fate}" if rule == "MAP-UNCOVERED" else " inside one domain"),
            cause=fate if rule == "MAP-UNCOVERED" else "",
        )


def usable_ram(machine: Machine) -> list[tuple[int, int]]:
    """RAM as Linux takes it from the map, ascending: whole usable pages, without page 0 and 640 KiB to 1 MiB.

    Where entries overlap, the one that is not usable wins (e820__update_table(), arch/x86/kernel/e820.c).
    """
    taken = sorted(
        [(e.start, e.end) for e in machine.e820 if e.type is not E820Type.USABLE]
        + [(0, PAGE_SIZE), (0xA0000, MIB)]
    )
    ram: list[tuple[int, int]] = []
    for entry in sorted(machine.e820, key=lambda e: e.start):
        if entry.type is not E820Type.USABLE:
            continue
        at = entry.start
        for start, end in [*taken, (entry.end, entry.end)]:
            low, high = align_up(at, PAGE_SIZE), align_down(min(start, entry.end), PAGE_SIZE)
            if low < high:
                ram.append((low, high))
            at = max(at, end)
    return ram


def _ram_inside(ram: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    return any(low < end and start < high for low, high in ram)


def _uncovered(ram: Iterable[tuple[int, int]], ranges: Sequence[_Range]) -> Iterator[tuple[int, int]]:
    """Whole pages of RAM that no range covers; both ascending."""
    for low, high in ram:
        at = low
        for row in ranges:
            if row.start >= high:
                break
            if row.start - at >= PAGE_SIZE:
                yield at, row.start
            at = max(at, row.end)
        if high - at >= PAGE_SIZE:
            yield at, high
