"""The 36-byte header every ACPI table starts with (ACPI 6.5 section 5.2.6), and the checksum."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from construct import Bytes, Int8ul, Int32ul, Struct

from acpitk.errors import DecodeError, EncodeError
from acpitk.tables.layout import Layout

HEADER_SIZE = 36
_LENGTH = slice(4, 8)
_CHECKSUM = 9

HEADER = Layout(
    Struct(
        "signature" / Bytes(4) * "Signature",
        "length" / Int32ul * "Table Length",
        "revision" / Int8ul * "Revision",
        "checksum" / Int8ul * "Checksum",
        "oem_id" / Bytes(6) * "Oem ID",
        "oem_table_id" / Bytes(8) * "Oem Table ID",
        "oem_revision" / Int32ul * "Oem Revision",
        "creator_id" / Bytes(4) * "Asl Compiler ID",
        "creator_revision" / Int32ul * "Asl Compiler Revision",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableHeader:
    """The header as it is written; `length` (bytes) and `checksum` may be wrong.

    Args:
        signature: 4 bytes, for example b"SRAT".
        length: bytes in the whole table, header included.
        revision: of the layout that follows, 8 bits.
        checksum: makes the bytes of a good table sum to 0 modulo 256.
        oem_id, oem_table_id, creator_id: 6, 8 and 4 bytes.
        oem_revision, creator_revision: 32 bits.
    """

    signature: bytes
    length: int
    revision: int
    checksum: int
    oem_id: bytes
    oem_table_id: bytes
    oem_revision: int
    creator_id: bytes
    creator_revision: int


def new_header(
    signature: bytes,
    revision: int,
    *,
    oem_id: bytes = b"ACPITK",
    oem_table_id: bytes = b"ACPITK  ",
    oem_revision: int = 1,
    creator_id: bytes = b"ATK ",
    creator_revision: int = 1,
) -> TableHeader:
    """A header for a table under construction: length and checksum are 0 until `seal` sets them."""
    return TableHeader(
        signature=signature,
        length=0,
        revision=revision,
        checksum=0,
        oem_id=oem_id,
        oem_table_id=oem_table_id,
        oem_revision=oem_revision,
        creator_id=creator_id,
        creator_revision=creator_revision,
    )


def seal(table: bytes) -> bytes:
    """`table` with its header's length and checksum made right; nothing else recomputes them.

    Raises:
        EncodeError: fewer bytes than a header, or more than the 32-bit length can say.
    """
    if not HEADER_SIZE <= len(table) < 1 << 32:
        raise EncodeError(
            f"{len(table)} bytes cannot be a table: use {HEADER_SIZE} bytes to 4 GiB", path="header.length"
        )
    sealed = bytearray(table)
    sealed[_LENGTH] = len(table).to_bytes(4, "little")
    sealed[_CHECKSUM] = 0
    sealed[_CHECKSUM] = -sum(sealed) & 0xFF
    return bytes(sealed)


def checksum_valid(table: bytes) -> bool:
    """Whether the bytes sum to 0 modulo 256."""
    return sum(table) & 0xFF == 0


_header_values = attrgetter(*HEADER.names)


def decode_header(data: bytes, *, path: str) -> TableHeader:
    """The header at the start of `data`; `path` names the table in errors.

    Raises:
        DecodeError: fewer than 36 bytes.
    """
    if len(data) < HEADER_SIZE:
        raise DecodeError(
            f"{len(data)} bytes, but a table header takes {HEADER_SIZE}: give a whole ACPI table",
            path=f"{path}.header",
            offset=len(data),
        )
    return TableHeader(**HEADER.parse(data))


def encode_header(header: TableHeader, *, path: str) -> bytes:
    """The 36 bytes of `header`, as they stand.

    Raises:
        EncodeError: a value does not fit its field.
    """
    return HEADER.build_values(_header_values(header), path=f"{path}.header")
