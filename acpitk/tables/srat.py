"""The System Resource Affinity Table (ACPI 6.5 section 5.2.16): bytes <-> values, lossless.

Decoding keeps what it finds: wrong lengths and checksums, reserved bits, unknown structures, bytes that
belong to no structure. `encode_srat(decode_srat(data)) == data` for every `data` that decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import IntFlag
from functools import lru_cache
from itertools import accumulate
from operator import attrgetter
from typing import Any, ClassVar

from construct import Bytes, Int8ul, Int16ul, Int24ul, Int32ul, Int64ul, Struct

from acpitk.errors import DecodeError, EncodeError
from acpitk.tables.header import (
    HEADER,
    HEADER_SIZE,
    TableHeader,
    decode_header,
    encode_header,
    new_header,
    seal,
)
from acpitk.tables.layout import Field, Layout, flags_field

SIGNATURE = b"SRAT"
FIXED_SIZE = 48
"""Bytes before the first affinity structure."""
SUBTABLE_HEADER_SIZE = 2
"""Type and length, one byte each, start every affinity structure."""


class ProcessorFlags(IntFlag):
    """Flags of types 0, 2, 3 and 7; reserved bits are kept."""

    ENABLED = 1


class MemoryFlags(IntFlag):
    """Flags of type 1; reserved bits are kept. SPECIFIC_PURPOSE is new in ACPI 6.6."""

    ENABLED = 1
    HOT_PLUGGABLE = 2
    NON_VOLATILE = 4
    SPECIFIC_PURPOSE = 8


class GenericFlags(IntFlag):
    """Flags of types 5 and 6; reserved bits are kept. ARCHITECTURAL_TRANSACTIONS is new in ACPI 6.4."""

    ENABLED = 1
    ARCHITECTURAL_TRANSACTIONS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorAffinity:
    """Type 0, Processor Local APIC/SAPIC Affinity; `proximity_domain` joins its low and high fields."""

    type: ClassVar[int] = 0
    proximity_domain: int
    apic_id: int
    flags: ProcessorFlags = ProcessorFlags.ENABLED
    sapic_eid: int = 0
    clock_domain: int = 0
    declared_length: int = 16
    extra: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryAffinity:
    """Type 1, Memory Affinity; `base` and `length` in bytes, their sum may pass 2**64."""

    type: ClassVar[int] = 1
    proximity_domain: int
    base: int
    length: int
    flags: MemoryFlags = MemoryFlags.ENABLED
    reserved1: int = 0
    reserved2: int = 0
    reserved3: int = 0
    declared_length: int = 40
    extra: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class X2ApicAffinity:
    """Type 2, Processor Local x2APIC Affinity."""

    type: ClassVar[int] = 2
    proximity_domain: int
    x2apic_id: int
    flags: ProcessorFlags = ProcessorFlags.ENABLED
    clock_domain: int = 0
    reserved1: int = 0
    reserved2: int = 0
    declared_length: int = 24
    extra: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiccAffinity:
    """Type 3, GICC Affinity."""

    type: ClassVar[int] = 3
    proximity_domain: int
    acpi_processor_uid: int
    flags: ProcessorFlags = ProcessorFlags.ENABLED
    clock_domain: int = 0
    declared_length: int = 18
    extra: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItsAffinity:
    """Type 4, GIC Interrupt Translation Service Affinity."""

    type: ClassVar[int] = 4
    proximity_domain: int
    its_id: int
    reserved: int = 0
    declared_length: int = 12
    extra: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcpiHandle:
    """Device handle type 0: `hid` is 8 bytes, `uid` the 4 bytes of _UID as a little-endian integer."""

    type: ClassVar[int] = 0
    hid: bytes
    uid: int
    reserved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PciHandle:
    """Device handle type 1; `devfn` holds the device in bits 7:3 and the function in 2:0."""

    type: ClassVar[int] = 1
    segment: int
    bus: int
    devfn: int
    reserved: bytes = bytes(12)

    @property
    def device(self) -> int:
        """PCI device number, 0 to 31."""
        return self.devfn >> 3

    @property
    def function(self) -> int:
        """PCI function number, 0 to 7."""
        return self.devfn & 7


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownHandle:
    """A device handle of a reserved type (2 to 255): its 16 bytes."""

    type: int
    raw: bytes


Handle = AcpiHandle | PciHandle | UnknownHandle


@dataclass(frozen=True, slots=True, kw_only=True)
class GenericInitiatorAffinity:
    """Type 5, Generic Initiator Affinity."""

    type: ClassVar[int] = 5
    proximity_domain: int
    handle: Handle
    flags: GenericFlags = GenericFlags.ENABLED
    reserved1: int = 0
    reserved2: int = 0
    declared_length: int = 32
    extra: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenericPortAffinity:
    """Type 6, Generic Port Affinity."""

    type: ClassVar[int] = 6
    proximity_domain: int
    handle: Handle
    flags: GenericFlags = GenericFlags.ENABLED
    reserved1: int = 0
    reserved2: int = 0
    declared_length: int = 32
    extra: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class RintcAffinity:
    """Type 7, RINTC Affinity (ACPI 6.6)."""

    type: ClassVar[int] = 7
    proximity_domain: int
    acpi_processor_uid: int
    flags: ProcessorFlags = ProcessorFlags.ENABLED
    clock_domain: int = 0
    reserved: int = 0
    declared_length: int = 20
    extra: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEntry:
    """A structure of an unknown type, or of a known type with a length below the specification's.

    Args:
        raw: the whole structure, at least its type and length bytes.

    Raises:
        ValueError: fewer than two bytes.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) < SUBTABLE_HEADER_SIZE:
            raise ValueError(f"an affinity structure has a type and a length byte, got {self.raw!r}")

    @property
    def type(self) -> int:
        """The structure type, its first byte."""
        return self.raw[0]

    @property
    def declared_length(self) -> int:
        """The length the structure claims, its second byte."""
        return self.raw[1]


KnownEntry = (
    ProcessorAffinity
    | MemoryAffinity
    | X2ApicAffinity
    | GiccAffinity
    | ItsAffinity
    | GenericInitiatorAffinity
    | GenericPortAffinity
    | RintcAffinity
)
Entry = KnownEntry | UnknownEntry

Fields = dict[str, Any]


def _join_domain(fields: Fields) -> Fields:
    low, high = fields.pop("proximity_domain_low"), fields.pop("proximity_domain_high")
    return fields | {"proximity_domain": low | high << 8}


def _split_domain(fields: Fields, path: str) -> Fields:
    domain = fields["proximity_domain"]
    if not 0 <= domain < 1 << 32:
        raise EncodeError(f"{domain!r} does not fit its 4-byte field", path=f"{path}.proximity_domain")
    return fields | {"proximity_domain_low": domain & 0xFF, "proximity_domain_high": domain >> 8}


_ACPI_HANDLE = Layout(Struct("hid" / Bytes(8), "uid" / Int32ul, "reserved" / Int32ul))
_PCI_HANDLE = Layout(Struct("segment" / Int16ul, "bus" / Int8ul, "devfn" / Int8ul, "reserved" / Bytes(12)))


def _join_handle(fields: Fields) -> Fields:
    kind, raw = fields.pop("handle_type"), fields["handle"]
    handle: Handle
    if kind == AcpiHandle.type:
        handle = AcpiHandle(**_ACPI_HANDLE.parse(raw))
    elif kind == PciHandle.type:
        handle = PciHandle(**_PCI_HANDLE.parse(raw))
    else:
        handle = UnknownHandle(type=kind, raw=raw)
    return fields | {"handle": handle}


def _split_handle(fields: Fields, path: str) -> Fields:
    handle = fields["handle"]
    if isinstance(handle, UnknownHandle):
        raw = handle.raw
    else:
        layout = _ACPI_HANDLE if isinstance(handle, AcpiHandle) else _PCI_HANDLE
        raw = layout.build_values(attrgetter(*layout.names)(handle), path=f"{path}.handle")
    return fields | {"handle_type": handle.type, "handle": raw}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subtable:
    """One affinity structure: the specification's name, its layout, and the value class of its fields.

    Args:
        join: layout fields -> value fields, where they differ.
        split: the reverse; takes the path for its EncodeError.
    """

    label: str
    entry: type[KnownEntry]
    layout: Layout
    join: Callable[[Fields], Fields] | None = None
    split: Callable[[Fields, str], Fields] | None = None


def _structure(*fields: Any) -> Layout:
    return Layout(Struct("type" / Int8ul * "Subtable Type", "declared_length" / Int8ul * "Length", *fields))


_DOMAIN = "proximity_domain" / Int32ul * "Proximity Domain"
_UID = "acpi_processor_uid" / Int32ul * "Acpi Processor UID"
_CLOCK_DOMAIN = "clock_domain" / Int32ul * "Clock Domain"
_PROCESSOR_FLAGS = "flags" / flags_field(ProcessorFlags) * "Flags"
_GENERIC = _structure(
    "reserved1" / Int8ul * "Reserved1",
    "handle_type" / Int8ul * "Device Handle Type",
    _DOMAIN,
    "handle" / Bytes(16) * "Device Handle",
    "flags" / flags_field(GenericFlags) * "Flags",
    "reserved2" / Int32ul * "Reserved2",
)

SUBTABLES: Mapping[int, Subtable] = {
    row.entry.type: row
    for row in (
        Subtable(
            label="Processor Local APIC/SAPIC Affinity",
            entry=ProcessorAffinity,
            layout=_structure(
                "proximity_domain_low" / Int8ul * "Proximity Domain Low(8)",
                "apic_id" / Int8ul * "Apic ID",
                _PROCESSOR_FLAGS,
                "sapic_eid" / Int8ul * "Local Sapic EID",
                "proximity_domain_high" / Int24ul * "Proximity Domain High(24)",
                _CLOCK_DOMAIN,
            ),
            join=_join_domain,
            split=_split_domain,
        ),
        Subtable(
            label="Memory Affinity",
            entry=MemoryAffinity,
            layout=_structure(
                _DOMAIN,
                "reserved1" / Int16ul * "Reserved1",
                "base" / Int64ul * "Base Address",
                "length" / Int64ul * "Address Length",
                "reserved2" / Int32ul * "Reserved2",
                "flags" / flags_field(MemoryFlags) * "Flags",
                "reserved3" / Int64ul * "Reserved3",
            ),
        ),
        Subtable(
            label="Processor Local x2APIC Affinity",
            entry=X2ApicAffinity,
            layout=_structure(
                "reserved1" / Int16ul * "Reserved1",
                _DOMAIN,
                "x2apic_id" / Int32ul * "Apic ID",
                _PROCESSOR_FLAGS,
                _CLOCK_DOMAIN,
                "reserved2" / Int32ul * "Reserved2",
            ),
        ),
        Subtable(
            label="GICC Affinity",
            entry=GiccAffinity,
            layout=_structure(_DOMAIN, _UID, _PROCESSOR_FLAGS, _CLOCK_DOMAIN),
        ),
        Subtable(
            label="GIC ITS Affinity",
            entry=ItsAffinity,
            layout=_structure(_DOMAIN, "reserved" / Int16ul * "Reserved", "its_id" / Int32ul * "ITS ID"),
        ),
        Subtable(
            label="Generic Initiator Affinity",
            entry=GenericInitiatorAffinity,
            layout=_GENERIC,
            join=_join_handle,
            split=_split_handle,
        ),
        Subtable(
            label="Generic Port Affinity",
            entry=GenericPortAffinity,
            layout=_GENERIC,
            join=_join_handle,
            split=_split_handle,
        ),
        Subtable(
            label="RINTC Affinity",
            entry=RintcAffinity,
            layout=_structure(
                "reserved" / Int16ul * "Reserved", _DOMAIN, _UID, _PROCESSOR_FLAGS, _CLOCK_DOMAIN
            ),
        ),
    )
}
"""Every affinity structure acpitk knows, by type; a new one is a value class and a row here."""


def _encoder(row: Subtable) -> tuple[Subtable, Callable[[KnownEntry], tuple[Any, ...]], tuple[str, ...]]:
    """The row, and a getter for the values to encode, in layout order where the row does not split them."""
    names = row.layout.names
    if row.split is not None:
        names = ("type", *(each.name for each in fields(row.entry) if each.name != "extra"))
    return row, attrgetter(*names), names


_ENCODERS = {kind: _encoder(row) for kind, row in SUBTABLES.items()}

FIXED = Layout(Struct("table_revision" / Int32ul * "Table Revision", "reserved" / Int64ul * "Reserved"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Srat:
    """A whole table as written.

    Args:
        header: kept as read; its length need not be the number of bytes there are.
        table_revision: 1 in a good table (bytes 36 to 39).
        reserved: bytes 40 to 47.
        entries: affinity structures in table order.
        trailing: what follows the last structure that could be walked.
    """

    header: TableHeader
    table_revision: int
    reserved: int
    entries: tuple[Entry, ...]
    trailing: bytes = b""

    def with_entries(self, entries: tuple[Entry, ...]) -> Srat:
        """A copy with other entries; header length and checksum stay (see `header.seal`)."""
        return replace(self, entries=tuple(entries))

    def with_entry(self, index: int, entry: Entry) -> Srat:
        """A copy with entry `index` replaced.

        Raises:
            IndexError: there is no such entry.
        """
        entries = list(self.entries)
        entries[index] = entry
        return self.with_entries(tuple(entries))

    def memory_affinities(self) -> tuple[MemoryAffinity, ...]:
        """The type 1 entries, in table order."""
        return tuple(entry for entry in self.entries if isinstance(entry, MemoryAffinity))

    def located(self) -> Iterator[tuple[int, Entry]]:
        """Each entry with its byte offset from the start of the table."""
        return zip(entry_offsets(self), self.entries, strict=True)


def entry_size(entry: Entry) -> int:
    """Bytes `entry` takes when encoded, which its `declared_length` may contradict."""
    if isinstance(entry, UnknownEntry):
        return len(entry.raw)
    return SUBTABLES[entry.type].layout.size + len(entry.extra)


def entry_offsets(srat: Srat) -> tuple[int, ...]:
    """Byte offset of every entry from the start of the table."""
    return tuple(accumulate(map(entry_size, srat.entries[:-1]), initial=FIXED_SIZE))[: len(srat.entries)]


def decode_srat(data: bytes) -> Srat:
    """Read an SRAT.

    Structures are walked by their declared length up to the end of `data`, whatever the header's length says.
    A structure shorter than its own two-byte header, or one that passes the end, ends the walk; it and
    everything after it is `trailing`.

    Raises:
        DecodeError: fewer than 48 bytes, or another table's signature.
    """
    header = decode_header(data, path="srat")
    if header.signature != SIGNATURE:
        raise DecodeError(
            f"the signature is {header.signature!r}, expected {SIGNATURE!r}: give an SRAT",
            path="srat.header.signature",
            offset=0,
        )
    if len(data) < FIXED_SIZE:
        raise DecodeError(
            f"{len(data)} bytes, but an SRAT takes at least {FIXED_SIZE}: the file is cut off",
            path="srat",
            offset=len(data),
        )
    bounds = _walk(data)
    return Srat(
        header=header,
        **FIXED.parse(data, HEADER_SIZE),
        entries=tuple(_decode_entry(data[start:end]) for start, end in bounds),
        trailing=data[bounds[-1][1] if bounds else FIXED_SIZE :],
    )


def encode_srat(srat: Srat) -> bytes:
    """The bytes of `srat` as it stands: no length or checksum is recomputed.

    Raises:
        EncodeError: a value does not fit its field; `path` names it, for example `srat.entries[2].base`.
    """
    parts = [
        encode_header(srat.header, path="srat"),
        FIXED.build_values((srat.table_revision, srat.reserved), path="srat"),
    ]
    for index, entry in enumerate(srat.entries):
        if isinstance(entry, UnknownEntry):
            parts.append(entry.raw)
        else:
            parts.append(_build_entry(entry, index))
    parts.append(srat.trailing)
    return b"".join(parts)


def build_srat(
    entries: tuple[Entry, ...],
    *,
    revision: int = 3,
    oem_id: bytes = b"ACPITK",
    oem_table_id: bytes = b"ACPITK  ",
    oem_revision: int = 1,
) -> Srat:
    """A well-formed SRAT around `entries`: length and checksum are right.

    Raises:
        EncodeError: a value does not fit its field.
    """
    header = new_header(
        SIGNATURE, revision, oem_id=oem_id, oem_table_id=oem_table_id, oem_revision=oem_revision
    )
    draft = Srat(header=header, table_revision=1, reserved=0, entries=tuple(entries))
    return replace(draft, header=decode_header(seal(encode_srat(draft)), path="srat"))


def srat_fields(data: bytes) -> Iterator[Field]:
    """Every field of the SRAT `data` in table order; unknown structures and leftovers as one bytes field.

    Field names are paths: `header.length`, `entries[0].base`, `trailing`.

    Raises:
        DecodeError: as `decode_srat`.
    """
    srat = decode_srat(data)
    yield from _prefixed(HEADER.fields(data, 0), "header.")
    yield from FIXED.fields(data, HEADER_SIZE)
    offset = FIXED_SIZE
    for index, (offset, entry) in enumerate(srat.located()):
        path = f"entries[{index}]"
        if isinstance(entry, UnknownEntry):
            yield Field(name=path, label="Unknown", offset=offset, size=len(entry.raw), value=entry.raw)
            continue
        layout = SUBTABLES[entry.type].layout
        yield from _prefixed(layout.fields(data, offset), f"{path}.")
        if extra := entry.extra:
            at = offset + layout.size
            yield Field(name=f"{path}.extra", label="Extra", offset=at, size=len(extra), value=extra)
    if left := srat.trailing:
        at = len(data) - len(left)
        yield Field(name="trailing", label="Trailing", offset=at, size=len(left), value=left)


def _prefixed(fields: Iterator[Field], prefix: str) -> Iterator[Field]:
    return (replace(field, name=prefix + field.name) for field in fields)


def _walk(data: bytes) -> list[tuple[int, int]]:
    """[start, end) of each structure."""
    bounds = []
    start, limit = FIXED_SIZE, len(data)
    while start + SUBTABLE_HEADER_SIZE <= limit:
        end = start + data[start + 1]
        if end - start < SUBTABLE_HEADER_SIZE or end > limit:
            break
        bounds.append((start, end))
        start = end
    return bounds


@lru_cache(maxsize=1 << 14)
def _decode_entry(raw: bytes) -> Entry:
    row = SUBTABLES.get(raw[0])
    if row is None or len(raw) < row.layout.size:
        return UnknownEntry(raw=raw)
    fields = row.layout.parse(raw)
    if row.join is not None:
        fields = row.join(fields)
    del fields["type"]
    return row.entry(**fields, extra=raw[row.layout.size :])


def _build_entry(entry: KnownEntry, index: int) -> bytes:
    row, values, names = _ENCODERS[entry.type]
    path = f"srat.entries[{index}]"
    if row.split is None:
        return row.layout.build_values(values(entry), path=path) + entry.extra
    fields = row.split(dict(zip(names, values(entry), strict=True)), path)
    return row.layout.build(fields, path=path) + entry.extra
