"""The System Locality Distance Information Table (ACPI 6.5 section 5.2.17): bytes <-> values, lossless."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from construct import Int64ul, Struct

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
from acpitk.tables.layout import Field, Layout

SIGNATURE = b"SLIT"
FIXED_SIZE = 44
"""Bytes before the matrix."""
LOCAL = 10
"""Distance of a locality to itself."""
UNREACHABLE = 255
"""No path between two localities."""

FIXED = Layout(Struct("localities" / Int64ul * "Localities"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slit:
    """A whole table as written.

    Args:
        header: kept as read; its length need not be the number of bytes there are.
        localities: the count the table claims, 64 bits.
        entries: the matrix bytes that are there, row by row, at most localities squared.
        trailing: bytes after the matrix.
    """

    header: TableHeader
    localities: int
    entries: bytes
    trailing: bytes = b""

    def distance(self, i: int, j: int) -> int | None:
        """Relative distance from locality i to locality j, or None where the table holds none."""
        if not (0 <= i < self.localities and 0 <= j < self.localities):
            return None
        index = i * self.localities + j
        return self.entries[index] if index < len(self.entries) else None


def decode_slit(data: bytes) -> Slit:
    """Read a SLIT; `encode_slit` gives back the same bytes.

    Raises:
        DecodeError: fewer than 44 bytes, or another table's signature.
    """
    header = decode_header(data, path="slit")
    if header.signature != SIGNATURE:
        raise DecodeError(
            f"the signature is {header.signature!r}, expected {SIGNATURE!r}: give a SLIT",
            path="slit.header.signature",
            offset=0,
        )
    if len(data) < FIXED_SIZE:
        raise DecodeError(
            f"{len(data)} bytes, but a SLIT takes at least {FIXED_SIZE}: the file is cut off",
            path="slit.localities",
            offset=len(data),
        )
    localities = FIXED.parse(data, HEADER_SIZE)["localities"]
    end = min(FIXED_SIZE + localities**2, len(data))
    return Slit(header=header, localities=localities, entries=data[FIXED_SIZE:end], trailing=data[end:])


def encode_slit(slit: Slit) -> bytes:
    """The bytes of `slit` as it stands: no count, length or checksum is recomputed.

    Raises:
        EncodeError: a value does not fit its field; `path` names it, for example `slit.localities`.
    """
    fixed = FIXED.build({"localities": slit.localities}, path="slit")
    return encode_header(slit.header, path="slit") + fixed + slit.entries + slit.trailing


def build_slit(
    rows: Sequence[Sequence[int]],
    *,
    revision: int = 1,
    oem_id: bytes = b"ACPITK",
    oem_table_id: bytes = b"ACPITK  ",
    oem_revision: int = 1,
) -> Slit:
    """A well-formed SLIT: `rows[i][j]` is the distance from i to j, one byte each.

    Raises:
        EncodeError: the matrix is not square, or a distance does not fit a byte.
    """
    for i, row in enumerate(rows):
        if len(row) != len(rows):
            raise EncodeError(f"{len(row)} distances for {len(rows)} localities", path=f"slit.rows[{i}]")
        for j, distance in enumerate(row):
            if not 0 <= distance <= 0xFF:
                raise EncodeError(f"{distance!r} does not fit its 1-byte field", path=f"slit.rows[{i}][{j}]")
    header = new_header(
        SIGNATURE, revision, oem_id=oem_id, oem_table_id=oem_table_id, oem_revision=oem_revision
    )
    draft = Slit(header=header, localities=len(rows), entries=b"".join(map(bytes, rows)))
    return replace(draft, header=decode_header(seal(encode_slit(draft)), path="slit"))


def slit_fields(data: bytes) -> Iterator[Field]:
    """Every field of the SLIT `data`, in table order; distances are named `entries[i][j]`.

    Raises:
        DecodeError: as `decode_slit`.
    """
    slit = decode_slit(data)
    for field in HEADER.fields(data, 0):
        yield replace(field, name=f"header.{field.name}")
    yield from FIXED.fields(data, HEADER_SIZE)
    for index, distance in enumerate(slit.entries):
        i, j = divmod(index, slit.localities)
        yield Field(
            name=f"entries[{i}][{j}]",
            label=f"Locality {i} to {j}",
            offset=FIXED_SIZE + index,
            size=1,
            value=distance,
        )
    if left := slit.trailing:
        at = len(data) - len(left)
        yield Field(name="trailing", label="Trailing", offset=at, size=len(left), value=left)
