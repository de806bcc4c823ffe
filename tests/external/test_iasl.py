"""A real iasl agrees with the codec where it can, and where it fails, its failure is a result."""

from __future__ import annotations

import stat
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acpitk.errors import ToolError
from acpitk.iasl import Ended, Iasl, Verdict, find_iasl
from acpitk.tables.asl import inexpressible
from acpitk.tables.dump import load
from acpitk.tables.slit import SIGNATURE as SLIT
from acpitk.tables.slit import build_slit, decode_slit, encode_slit
from acpitk.tables.srat import SIGNATURE as SRAT
from acpitk.tables.srat import (
    AcpiHandle,
    Entry,
    GenericInitiatorAffinity,
    GenericPortAffinity,
    GiccAffinity,
    ItsAffinity,
    MemoryAffinity,
    MemoryFlags,
    PciHandle,
    ProcessorAffinity,
    RintcAffinity,
    UnknownEntry,
    X2ApicAffinity,
    build_srat,
    decode_srat,
    encode_srat,
)

pytestmark = pytest.mark.iasl

u16, u32, u64 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
u8 = st.integers(0, 255)
handles = st.builds(PciHandle, segment=u16, bus=u8, devfn=u8) | st.builds(
    AcpiHandle, hid=st.binary(min_size=8, max_size=8), uid=u32
)
entries: st.SearchStrategy[Entry] = st.one_of(
    st.builds(ProcessorAffinity, proximity_domain=u32, apic_id=u8, sapic_eid=u8, clock_domain=u32),
    st.builds(
        MemoryAffinity,
        proximity_domain=u32,
        base=u64,
        length=u64,
        flags=st.integers(0, 7).map(MemoryFlags),
        reserved1=u16,
        reserved2=u32,
        reserved3=u64,
    ),
    st.builds(X2ApicAffinity, proximity_domain=u32, x2apic_id=u32, reserved1=u16, reserved2=u32),
    st.builds(GiccAffinity, proximity_domain=u32, acpi_processor_uid=u32, clock_domain=u32),
    st.builds(ItsAffinity, proximity_domain=u32, its_id=u32),
    st.builds(GenericInitiatorAffinity, proximity_domain=u32, handle=handles, reserved1=u8, reserved2=u32),
    st.builds(GenericPortAffinity, proximity_domain=u32, handle=handles),
    st.builds(RintcAffinity, proximity_domain=u32, acpi_processor_uid=u32),
)
names = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters='"\\'), max_size=6)

MEMORY = MemoryAffinity(proximity_domain=0, base=0, length=1 << 30)
WITH_FIXTURE = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def iasl(iasl_path: object) -> Iasl:
    return find_iasl()


def test_what_it_knows_is_found_by_asking(iasl: Iasl) -> None:
    assert iasl.version >= 20100000
    assert {0, 1, 2} <= iasl.srat_types <= set(range(8))
    for kind, entry in ((6, GenericPortAffinity), (7, RintcAffinity)):
        assert entry.type == kind
    if iasl.version == 20200925:
        assert iasl.srat_types == frozenset(range(6))


@WITH_FIXTURE
@given(st.lists(entries, max_size=6), names, names)
def test_expressible_srats_survive_both_ways(
    iasl: Iasl, members: list[Entry], oem_id: str, oem_table_id: str
) -> None:
    known = tuple(entry for entry in members if entry.type in iasl.srat_types)
    srat = build_srat(
        known, oem_id=oem_id.encode().ljust(6, b"\0"), oem_table_id=oem_table_id.encode().ljust(8, b"\0")
    )
    trip = iasl.round_trip(encode_srat(srat))
    assert trip.inexpressible == ()
    assert trip.verdict is Verdict.SAME, trip
    assert trip.findings() == ()


@WITH_FIXTURE
@given(st.integers(0, 40), st.data())
def test_slits_survive_both_ways(iasl: Iasl, size: int, data: st.DataObject) -> None:
    matrix = data.draw(st.binary(min_size=size * size, max_size=size * size))
    table = encode_slit(build_slit([matrix[i * size : (i + 1) * size] for i in range(size)]))
    trip = iasl.round_trip(table)
    assert trip.compiled.verdict is Verdict.SAME, trip
    assert trip.inexpressible == ()


@pytest.mark.parametrize(
    "entry",
    [
        GenericPortAffinity(proximity_domain=1, handle=PciHandle(segment=0, bus=0, devfn=0)),
        RintcAffinity(proximity_domain=1, acpi_processor_uid=1),
    ],
    ids=["generic port", "rintc"],
)
def test_types_it_lacks_are_inexpressible_and_no_finding(iasl: Iasl, entry: Entry) -> None:
    trip = iasl.round_trip(encode_srat(build_srat((MEMORY, entry))))
    known = entry.type in iasl.srat_types
    assert trip.compiled.verdict is (Verdict.SAME if known else Verdict.INEXPRESSIBLE)
    assert bool(trip.inexpressible) is not known
    assert trip.findings() == ()


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (replace(MEMORY, flags=MemoryFlags(0x80000001)), "entries[0].flags"),
        (ItsAffinity(proximity_domain=0, its_id=0, reserved=1), "entries[0].reserved"),
        (UnknownEntry(raw=b"\x09\x04ab"), "header.length"),
        (replace(MEMORY, declared_length=41, extra=b"x"), "header.length"),
    ],
    ids=["reserved flag", "reserved field", "unknown type", "overlong"],
)
def test_what_it_changes_is_named_by_field(iasl: Iasl, entry: Entry, field: str) -> None:
    trip = iasl.round_trip(encode_srat(build_srat((entry,))))
    assert trip.compiled.verdict is Verdict.INEXPRESSIBLE
    assert field in [difference.field for difference in trip.compiled.differences]
    assert trip.inexpressible


def test_real_tables_survive_both_ways(iasl: Iasl, real_tables: Path) -> None:
    compared = 0
    for path in sorted(real_tables.glob("*.bin")):
        (blob,) = load(path)
        if blob.signature in (SRAT, SLIT):
            trip = iasl.round_trip(blob.data)
            compared += trip.verdict is Verdict.SAME
            assert trip.verdict is (Verdict.INEXPRESSIBLE if trip.inexpressible else Verdict.SAME), path.name
    assert compared > 0


def test_endless_output_ends_at_the_cap(iasl: Iasl) -> None:
    table = encode_srat(build_srat((MEMORY,)))
    shorter = table[:4] + struct.pack("<I", 40) + table[8:]
    trip = iasl.round_trip(shorter)
    if iasl.version == 20200925:
        assert trip.disassembled.verdict is Verdict.FLOODED
        (finding,) = trip.findings()
        assert finding.signature == "IASL-FLOODED:disassemble"
    assert trip.compiled.verdict is Verdict.INEXPRESSIBLE


def test_a_crash_is_a_result(iasl: Iasl) -> None:
    slit = replace(build_slit([[10]]), localities=0xFFFFFFFF)
    trip = iasl.round_trip(encode_slit(slit))
    if iasl.version == 20200925:
        assert trip.compiled.verdict is Verdict.CRASHED
        assert trip.compiled.detail == "SIGSEGV"
        assert "IASL-CRASHED:compile:SIGSEGV" in [finding.signature for finding in trip.findings()]
    assert trip.verdict is not Verdict.SAME


@WITH_FIXTURE
@given(st.binary(max_size=120))
def test_arbitrary_tails_give_a_result_and_never_an_unexplained_change(iasl: Iasl, tail: bytes) -> None:
    table = encode_srat(replace(build_srat((MEMORY,)), trailing=tail))
    trip = iasl.round_trip(table, timeout_s=5)
    assert trip.compiled.verdict in (Verdict.SAME, Verdict.INEXPRESSIBLE), trip
    assert trip.inexpressible == inexpressible(table, dialect=iasl.dialect)


def test_source_that_does_not_compile_is_judged_by_its_missing_output(iasl: Iasl) -> None:
    result = iasl.compile('[0004] Signature : "SRAT"\n[0004] Nonsense : 1\n')
    assert result.ended is Ended.NO_OUTPUT
    assert result.output == b""
    assert any(message.startswith("Error") for message in result.messages)


def test_a_hang_is_a_result(iasl: Iasl, tmp_path: Path) -> None:
    slow = replace(iasl, path=_program(tmp_path, "sleep 60"))
    assert slow.compile("", timeout_s=0.2).ended is Ended.HUNG


def test_a_missing_iasl_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="acpica-tools"):
        find_iasl(tmp_path / "iasl")


def test_another_program_is_not_taken_for_iasl(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="names no version"):
        find_iasl(_program(tmp_path, "echo hello"))
    with pytest.raises(ToolError, match="does not compile a plain SRAT"):
        find_iasl(_program(tmp_path, "echo compiler version 20200925"))


def _program(directory: Path, command: str) -> Path:
    path = directory / "program"
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


SOURCES = sorted((Path(__file__).resolve().parents[2] / "asl").glob("*.asl"))


def test_there_are_sources() -> None:
    assert {path.name.split(".")[1] for path in SOURCES} == {"srat", "slit"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_sources_compile_and_decode(iasl: Iasl, path: Path) -> None:
    source = path.read_text()
    if len(iasl.dialect.flags(type(iasl.dialect.generic_flags))) > 1:
        source = f"#define ARCHITECTURAL_TRANSACTIONS\n{source}"
    result = iasl.compile(source)
    assert result.messages == ()
    table = result.output
    if table[:4] == SRAT:
        srat = decode_srat(table)
        assert encode_srat(srat) == table
        assert srat.header.length == len(table)
        assert srat.memory_affinities()
        assert not srat.trailing
    else:
        slit = decode_slit(table)
        assert encode_slit(slit) == table
        assert len(slit.entries) == slit.localities**2 > 0
    declared = struct.unpack_from("<IxB", table, 4)
    assert f"Table Length : {declared[0]:08X}" in source
    assert f"Checksum : {declared[1]:02X}" in source
