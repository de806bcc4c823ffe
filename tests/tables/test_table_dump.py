"""Finding tables in files: acpidump text, raw blobs, directories, and clear words for everything else."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.errors import AcpitkError, DecodeError, UsageError
from acpitk.tables.dump import MAX_SIZE, load, parse_dump
from acpitk.tables.slit import build_slit, encode_slit
from acpitk.tables.srat import MemoryAffinity, build_srat, decode_srat, encode_srat

SRAT = encode_srat(build_srat((MemoryAffinity(proximity_domain=0, base=0, length=1 << 30),)))
SLIT = encode_slit(build_slit([[10, 20], [20, 10]]))


def acpidump_text(*tables: bytes) -> bytes:
    """What acpidump prints."""
    lines = []
    for table in tables:
        lines.append(f"{table[:4].decode()} @ 0x0000000000000000")
        for at in range(0, len(table), 16):
            row = table[at : at + 16]
            shown = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
            lines.append(f"    {at:04X}: {row.hex(' ').upper():<47}  {shown}")
        lines.append("")
    return "\n".join(lines).encode()


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_acpidump_text_gives_back_every_byte(tails: list[bytes]) -> None:
    tables = [SRAT + tail for tail in tails]
    blobs = parse_dump(acpidump_text(*tables), source="x")
    assert [blob.data for blob in blobs] == tables
    assert {(blob.signature, blob.source) for blob in blobs} == {(b"SRAT", "x")}


def test_crlf_text_is_the_same_text() -> None:
    text = acpidump_text(SRAT, SLIT).replace(b"\n", b"\r\n")
    assert [blob.data for blob in parse_dump(text, source="x")] == [SRAT, SLIT]


def test_raw_tables_back_to_back_are_split_by_length() -> None:
    blobs = parse_dump(SRAT + SLIT + SRAT, source="x")
    assert [blob.data for blob in blobs] == [SRAT, SLIT, SRAT]


@pytest.mark.parametrize("length", [0, 35, len(SRAT) + 1, 0xFFFFFFFF])
def test_a_raw_table_with_an_impossible_length_takes_the_rest(length: int) -> None:
    data = SRAT[:4] + struct.pack("<I", length) + SRAT[8:]
    (blob,) = parse_dump(data, source="x")
    assert blob.data == data
    assert decode_srat(blob.data).header.length == length


def test_bytes_after_a_table_that_start_no_table_stay_with_it() -> None:
    (blob,) = parse_dump(SRAT + bytes(100), source="x")
    assert blob.data == SRAT + bytes(100)


@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda tail: SRAT + tail))
def test_no_byte_is_lost_or_invented(data: bytes) -> None:
    try:
        blobs = parse_dump(data, source="x")
    except DecodeError:
        return
    assert b"".join(blob.data for blob in blobs) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x at byte 0 .*0 bytes"),
        (b"SRAT123456", "10 bytes, but an ACPI table has at least 36"),
        (b"This is a letter, and not at all a table of any kind.", "not a table signature"),
        (b"SRAT @ 0x0\n    0000: 53 52\n", "last line.*has 2 bytes"),
        (b"SRAT @ 0x0\nhello\n", "line 2 .*'hello' is not a line of acpidump"),
        (acpidump_text(SRAT).replace(b"    0010:", b"    0020:"), "line 3 .*expected 0010"),
    ],
)
def test_what_holds_no_table_is_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message) as caught:
        parse_dump(data, source="x")
    assert "\n" not in str(caught.value)


def test_load_a_file_and_a_directory(tmp_path: Path) -> None:
    (tmp_path / "SRAT").write_bytes(SRAT)
    (tmp_path / "SLIT").write_bytes(SLIT)
    (tmp_path / "README").write_text("no table")
    (tmp_path / "dynamic").mkdir()
    assert [blob.data for blob in load(tmp_path / "SRAT")] == [SRAT]
    assert {blob.signature: blob.data for blob in load(tmp_path)} == {b"SRAT": SRAT, b"SLIT": SLIT}


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(MAX_SIZE + 1)
    for path, message in (
        (tmp_path / "none", "No such file"),
        (big, "16 MiB"),
        (tmp_path / "empty", "no ACPI"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            load(path)
        assert str(caught.value).startswith(str(path))


def test_hostile_file_names_are_only_names(tmp_path: Path) -> None:
    path = tmp_path / "a,b;$(id) \x1b[31m.bin"
    path.write_bytes(SRAT)
    (blob,) = load(path)
    assert blob.data == SRAT
    assert blob.source.isprintable()
    with pytest.raises(UsageError) as caught:
        load(tmp_path / "two\nlines\x1b[31m")
    assert str(caught.value).isprintable()
    with pytest.raises(AcpitkError):
        load(Path("nul\0byte"))


def test_many_small_tables_in_the_largest_file_are_read_in_linear_time(tmp_path: Path) -> None:
    one = SRAT[:4] + struct.pack("<I", 48) + bytes(40)
    path = tmp_path / "many"
    path.write_bytes(one * (MAX_SIZE // 48))
    assert len(load(path)) == MAX_SIZE // 48
