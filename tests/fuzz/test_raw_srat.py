"""Laws of the raw SRAT: cutting loses nothing, edits reach the field they name, header damage survives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from acpitk.fuzz import raw, strategies
from acpitk.tables.header import checksum_valid, seal
from acpitk.tables.srat import (
    GenericInitiatorAffinity,
    MemoryAffinity,
    ProcessorAffinity,
    Srat,
    UnknownEntry,
    X2ApicAffinity,
    decode_srat,
    encode_srat,
)

u32 = st.integers(0, 0xFFFFFFFF)
u64 = st.integers(0, (1 << 64) - 1)


def decoded(*entries: bytes) -> Srat:
    return decode_srat(b"SRAT" + bytes(44) + b"".join(entries))


@given(st.binary(max_size=300))
def test_cutting_loses_nothing(table: bytes) -> None:
    assert raw.cut(table).encode() == table


@given(strategies.srats())
def test_cutting_and_decoding_agree(srat: Srat) -> None:
    cut = raw.cut(encode_srat(srat))
    assert len(cut.entries) == len(srat.entries)
    assert cut.tail == srat.trailing
    for piece, entry in zip(cut.entries, srat.entries, strict=True):
        if isinstance(entry, UnknownEntry):
            assert raw.domain(piece) is None
            assert raw.flags(piece) is None
        else:
            assert raw.domain(piece) == entry.proximity_domain
            assert raw.flags(piece) == getattr(entry, "flags", None)


@given(u32, u64, u64, u32)
def test_a_memory_entry_says_what_the_codec_reads(domain: int, base: int, length: int, flags: int) -> None:
    made = raw.Memory(domain, base, length, flags)
    assert raw.memory(made.encode()) == made
    (entry,) = decoded(made.encode()).entries
    assert isinstance(entry, MemoryAffinity)
    assert (entry.proximity_domain, entry.base, entry.length) == (domain, base, length)
    assert int(entry.flags) == flags


@given(u32, st.integers(0, 255), u32, st.integers(0, 255), u32)
def test_other_entries_say_what_the_codec_reads(
    domain: int, apic: int, wide: int, devfn: int, flags: int
) -> None:
    one, two, five = decoded(
        raw.processor(domain, apic, flags),
        raw.x2apic(domain, wide, flags),
        raw.generic(raw.GENERIC_INITIATOR, domain, apic, devfn, flags),
    ).entries
    assert isinstance(one, ProcessorAffinity)
    assert isinstance(two, X2ApicAffinity)
    assert isinstance(five, GenericInitiatorAffinity)
    assert (one.apic_id, two.x2apic_id) == (apic, wide)
    assert {e.proximity_domain for e in (one, two, five)} == {domain}
    assert {int(e.flags) for e in (one, two, five)} == {flags}


@given(strategies.srats(), u32, u32)
def test_an_edit_changes_its_field_alone(srat: Srat, domain: int, flags: int) -> None:
    for piece in raw.cut(encode_srat(srat)).entries:
        moved = raw.with_domain(piece, domain)
        assert raw.domain(moved) == (None if raw.domain(piece) is None else domain)
        assert raw.flags(moved) == raw.flags(piece)
        assert raw.with_domain(moved, raw.domain(piece) or 0) == piece
        flagged = raw.with_flags(piece, flags)
        assert raw.flags(flagged) == (None if raw.flags(piece) is None else flags)
        assert raw.domain(flagged) == raw.domain(piece)


@given(st.binary(min_size=36, max_size=80), st.binary(min_size=36, max_size=80), st.booleans())
def test_header_truth_is_kept_and_damage_survives(before: bytes, after: bytes, sound: bool) -> None:
    before = seal(before) if sound else before
    kept = raw.keep_header_truth(before, after)
    length_right = int.from_bytes(before[4:8], "little") == len(before)
    if length_right:
        assert int.from_bytes(kept[4:8], "little") == len(kept)
    else:
        assert kept[4:8] == before[4:8]
    if checksum_valid(before):
        assert checksum_valid(kept)
    assert kept[10:] == after[10:]
