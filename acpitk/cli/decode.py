"""`acpitk decode`: show tables field by field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntFlag
from pathlib import Path
from typing import Any

import click

from acpitk.cli.inputs import PATH, describe, json_option, load_tables
from acpitk.cli.output import emit, emit_json
from acpitk.report.text import table
from acpitk.tables.dump import TableBlob
from acpitk.tables.header import HEADER, HEADER_SIZE, checksum_valid, decode_header
from acpitk.tables.layout import Field
from acpitk.tables.slit import slit_fields
from acpitk.tables.srat import SUBTABLES, ProcessorAffinity, decode_srat, srat_fields

_FIELDS = {b"SRAT": srat_fields, b"SLIT": slit_fields}
_ENTRY = re.compile(r"entries\[(\d+)\](?:\.(\w+)|\[(\d+)\])?")


@click.command("decode")
@click.argument("files", type=PATH, nargs=-1, required=True)
@json_option
def command(files: tuple[Path, ...], as_json: bool) -> int:
    """Show every field of every table in FILES: raw tables, acpidump text, or /sys/firmware/acpi/tables/SRAT.

    Bytes that belong to no field are shown raw. SRAT and SLIT are read in full, other tables by their header.

    \b
    Examples:
      acpitk decode srat.bin
      acpitk decode --json acpidump.txt
    """
    blobs = [blob for path in files for blob in load_tables(path)]
    decoded = [(blob, list(_fields(blob.data))) for blob in blobs]
    if as_json:
        emit_json({"schema": 1, "tables": [_document(blob, fields) for blob, fields in decoded]})
        return 0
    for blob, fields in decoded:
        checksum = "" if checksum_valid(blob.data) else ", checksum wrong"
        title = f"{describe(blob.signature)}, {len(blob.data)} bytes{checksum}  ({blob.source})"
        rows = ((f"{f.offset:#06x}", f.size, f.label, _text(f)) for f in fields)
        emit(table(title, ("offset>", "size>", "field", "value"), rows))
    return 0


def _fields(data: bytes) -> Iterator[Field]:
    if data[:4] in _FIELDS:
        yield from _FIELDS[data[:4]](data)
        return
    decode_header(data, path="table")
    yield from HEADER.fields(data, 0)
    if body := data[HEADER_SIZE:]:
        yield Field(name="body", label="Body", offset=HEADER_SIZE, size=len(body), value=body)


def _document(blob: TableBlob, fields: list[Field]) -> dict[str, Any]:
    """Nested fields; header strings as Latin-1 text, other bytes as hex."""
    out: dict[str, Any] = {
        "source": blob.source,
        "size": len(blob.data),
        "checksum_valid": checksum_valid(blob.data),
    }
    header: dict[str, Any] = {}
    entries: list[Any] = []
    for field in fields:
        if isinstance(field.value, bytes) and field.offset < HEADER_SIZE:
            header[field.name.removeprefix("header.")] = field.value.decode("latin-1")
        elif field.offset < HEADER_SIZE:
            header[field.name.removeprefix("header.")] = int(field.value)
        elif match := _ENTRY.fullmatch(field.name):
            _place(entries, match, field)
        else:
            out[field.name] = _plain(field.value)
    out["header"] = header
    if blob.signature in _FIELDS:
        out["entries"] = entries
    if blob.signature == b"SRAT":
        for row, entry in zip(entries, decode_srat(blob.data).entries, strict=True):
            if isinstance(entry, ProcessorAffinity):
                row["proximity_domain"] = entry.proximity_domain  # the specification splits it in two fields
    return out


def _place(entries: list[Any], match: re.Match[str], field: Field) -> None:
    index, name, column = int(match[1]), match[2], match[3]
    if index == len(entries):
        entries.append([] if column else {"offset": field.offset})
    if column:
        entries[index].append(field.value)
    elif isinstance(field.value, bytes) and name is None:
        entries[index] |= {
            "type": field.value[0],
            "declared_length": field.value[1],
            "raw": field.value.hex(),
        }
    else:
        entries[index][name] = _plain(field.value)
        if isinstance(field.value, IntFlag):
            entries[index]["flag_names"] = [flag.name for flag in type(field.value) if flag in field.value]


def _plain(value: int | bytes) -> int | str:
    return value.hex() if isinstance(value, bytes) else int(value)


def _text(field: Field) -> str:
    value = field.value
    if isinstance(value, bytes):
        return (
            repr(value.decode("ascii"))
            if value.isascii() and value.decode().isprintable()
            else value.hex(" ")
        )
    if isinstance(value, IntFlag):
        names = " ".join(str(flag.name) for flag in type(value) if flag in value)
        return f"{int(value):#x} {names}".rstrip()
    if field.name.endswith(".type"):
        return f"{value:#x} {SUBTABLES[value].label}"
    return f"{value:#x}" + (f" ({value})" if value > 9 else "")
