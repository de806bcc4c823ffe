"""Table bytes -> data-table source, the text `iasl` compiles and `iasl -d` prints, for SRAT and SLIT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag

from acpitk.errors import DecodeError
from acpitk.tables import slit, srat
from acpitk.tables.header import HEADER, HEADER_SIZE, TableHeader, checksum_valid, decode_header
from acpitk.tables.layout import Field
from acpitk.tables.srat import GenericFlags, MemoryFlags, ProcessorFlags, UnknownEntry

_TABLE_NAMES = {
    srat.SIGNATURE: "System Resource Affinity Table",
    slit.SIGNATURE: "System Locality Information Table",
}
_PER_LINE = 16
_SHOWN = 64
_MAX_LOCALITIES = 1 << 16
"""Above this iasl's 32-bit sizes overflow (localities squared), and no 4 GiB table holds the matrix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What a release of iasl can express; the default is that of releases since 20240322.

    Args:
        srat_types: affinity structure types it compiles.
        generic_flags: flags of types 5 and 6 it has a line for.
    """

    srat_types: frozenset[int] = frozenset(range(8))
    generic_flags: GenericFlags = GenericFlags.ENABLED | GenericFlags.ARCHITECTURAL_TRANSACTIONS

    def flags(self, kind: type[IntFlag]) -> tuple[IntFlag, ...]:
        """The flags of `kind` that have a line of their own; iasl takes the flags from those lines alone."""
        if kind is MemoryFlags:
            return (MemoryFlags.ENABLED, MemoryFlags.HOT_PLUGGABLE, MemoryFlags.NON_VOLATILE)
        if kind is GenericFlags:
            return tuple(flag for flag in GenericFlags if flag in self.generic_flags)
        return (ProcessorFlags.ENABLED,)


CURRENT = Dialect()


def render(table: bytes, *, dialect: Dialect = CURRENT) -> str:
    """Data-table source for an SRAT or a SLIT, ASCII, one field a line.

    What the format has no words for is left out, in a comment; `inexpressible` lists it.

    Raises:
        DecodeError: `table` is neither, or too short to be one.
    """
    header = _header(table)
    lines = [f"/* {header.length} bytes declared, {len(table)} present */", ""]
    for field in HEADER.fields(table, 0):
        name = _TABLE_NAMES.get(header.signature) if field.name == "signature" else None
        lines.append(_line(field) + (f"    [{name}]" if name else ""))
    lines.append("")
    body = _srat_lines(table, dialect) if header.signature == srat.SIGNATURE else _slit_lines(table)
    return "\n".join([*lines, *body, ""])


def inexpressible(table: bytes, *, dialect: Dialect = CURRENT) -> tuple[str, ...]:
    """Why iasl cannot reproduce `table` from `render`, creator fields aside; empty when it should.

    Raises:
        DecodeError: as `render`.
    """
    header = _header(table)
    reasons = []
    if header.length != len(table):
        reasons.append(f"header.length is {header.length}, iasl writes the real size, {len(table)}")
    if not checksum_valid(table):
        reasons.append(f"header.checksum {header.checksum:#04x} is wrong, iasl corrects it")
    for name in ("oem_id", "oem_table_id"):
        if _literal(getattr(header, name)) is None:
            reasons.append(f"header.{name} {getattr(header, name)!r} has no string form")
    if header.signature == srat.SIGNATURE:
        reasons += _srat_reasons(table, dialect)
    else:
        reasons += _slit_reasons(table)
    return tuple(reasons)


def _header(table: bytes) -> TableHeader:
    header = decode_header(table, path="table")
    if header.signature not in _TABLE_NAMES:
        raise DecodeError(
            f"the signature is {header.signature!r}: source is written for SRAT and SLIT only",
            path="table.header.signature",
            offset=0,
        )
    return header


def _srat_lines(table: bytes, dialect: Dialect) -> Iterator[str]:
    decoded = srat.decode_srat(table)
    yield from map(_line, srat.FIXED.fields(table, HEADER_SIZE))
    for offset, entry in decoded.located():
        yield ""
        if isinstance(entry, UnknownEntry) or entry.type not in dialect.srat_types:
            raw = table[offset : offset + srat.entry_size(entry)]
            yield _left_out(f"structure of type {entry.type} at byte {offset}", raw)
            continue
        row = srat.SUBTABLES[entry.type]
        for field in row.layout.fields(table, offset):
            yield _line(field) + (f" [{row.label}]" if field.name == "type" else "")
            if isinstance(field.value, IntFlag):
                for flag in dialect.flags(type(field.value)):
                    yield f"{_flag_label(flag):>41} : {int(flag in field.value)}"
        if entry.extra:
            yield _left_out("the end of the structure above", entry.extra)
    if decoded.trailing:
        yield "\n" + _left_out("trailing bytes", decoded.trailing)


def _srat_reasons(table: bytes, dialect: Dialect) -> Iterator[str]:
    decoded = srat.decode_srat(table)
    yield from _zeroed(srat.FIXED.fields(table, HEADER_SIZE), "")
    for index, (offset, entry) in enumerate(decoded.located()):
        path = f"entries[{index}]"
        if entry.type not in dialect.srat_types:
            yield f"{path}: structure type {entry.type} is unknown to iasl"
        elif isinstance(entry, UnknownEntry):
            yield f"{path}: length {entry.declared_length} is too short for type {entry.type}"
        else:
            yield from _zeroed(srat.SUBTABLES[entry.type].layout.fields(table, offset), f"{path}.")
            if entry.extra:
                yield f"{path}: {len(entry.extra)} bytes more than type {entry.type} has, iasl drops them"
            if not isinstance(entry, srat.ItsAffinity):
                known = sum(dialect.flags(type(entry.flags)))
                if lost := entry.flags & ~known:
                    yield f"{path}.flags: iasl has no line for bits {int(lost):#x} and drops them"
    if decoded.trailing:
        yield f"{len(decoded.trailing)} trailing bytes belong to no structure"


def _zeroed(fields: Iterator[Field], prefix: str) -> Iterator[str]:
    """iasl writes 0 for a field it calls `Reserved`; it keeps `Reserved1` and so on."""
    for field in fields:
        if field.label == "Reserved" and isinstance(field.value, int) and field.value:
            yield f"{prefix}{field.name} {field.value:#x} at byte {field.offset}, iasl writes 0"


def _slit_lines(table: bytes) -> Iterator[str]:
    decoded = slit.decode_slit(table)
    yield from map(_line, slit.FIXED.fields(table, HEADER_SIZE))
    width = decoded.localities or 1
    for row, start in enumerate(range(0, len(decoded.entries), width)):
        distances = decoded.entries[start : start + width]
        label = f"Locality {row:>3}"
        yield f"[{len(distances):04d}] {label:>34} : {_hex_block(distances)}"
    if decoded.trailing:
        yield _left_out("trailing bytes", decoded.trailing)


def _slit_reasons(table: bytes) -> Iterator[str]:
    decoded = slit.decode_slit(table)
    if decoded.localities > _MAX_LOCALITIES:
        yield f"localities {decoded.localities:#x} is more than iasl can count"
    elif len(decoded.entries) != decoded.localities**2:
        yield f"{len(decoded.entries)} distances for {decoded.localities} localities"
    if decoded.trailing:
        yield f"{len(decoded.trailing)} trailing bytes after the matrix"


def _line(field: Field) -> str:
    label = field.label
    if isinstance(field.value, bytes):
        # The header's byte strings are text, the only other one is the 16-byte device handle.
        value = _hex_block(field.value) if field.name == "handle" else f'"{_text(field.value)}"'
    else:
        value = f"{int(field.value):0{field.size * 2}X}"
    if isinstance(field.value, IntFlag):
        label += " (decoded below)"
    return f"[{field.size:04d}] {label:>34} : {value}"


def _flag_label(flag: IntFlag) -> str:
    return "Non-Volatile" if flag.name == "NON_VOLATILE" else str(flag.name).replace("_", " ").title()


def _left_out(what: str, data: bytes) -> str:
    shown = data[:_SHOWN].hex(" ") + (" ..." if len(data) > _SHOWN else "")
    return f"/* left out: {what}, {len(data)} bytes: {shown} */"


def _hex_block(data: bytes) -> str:
    pieces = (data[i : i + _PER_LINE].hex(" ").upper() for i in range(0, len(data), _PER_LINE))
    return f" \\\n{'':44}".join(pieces)


def _text(data: bytes) -> str:
    """The string literal for `data`, or the nearest one where it has none."""
    literal = _literal(data)
    if literal is not None:
        return literal
    return "".join(chr(byte) if _plain(byte) else "." for byte in data)


def _literal(data: bytes) -> str | None:
    """What to write between quotes: iasl pads with NULs, knows no escapes, and takes printable ASCII only."""
    text = data.rstrip(b"\0")
    return text.decode("ascii") if all(map(_plain, text)) else None


def _plain(byte: int) -> bool:
    return 0x20 <= byte < 0x7F and byte not in b'"\\'
