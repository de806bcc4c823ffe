"""Laws of the console parser, whatever the console says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk import klog
from acpitk.outcome import NumaReason

LOGS = Path(__file__).parent / "logs"
CONSOLES = [path.read_text() for path in sorted(LOGS.glob("*/*.log"))]
consoles = st.sampled_from(CONSOLES)
FRAGMENTS = sorted({line for console in CONSOLES for line in klog.lines(console)[::7]})
noise = st.text(st.characters(codec="utf-8"), max_size=80) | st.sampled_from(FRAGMENTS)


@given(consoles, st.floats(0, 1))
def test_a_cut_console_says_the_same_or_less(console: str, where: float) -> None:
    whole = klog.parse(console, kernel="k", ended="marker")
    part = klog.parse(console[: int(len(console) * where)], kernel="k", ended="marker")
    for field in ("numa", "memory", "reserved", "node_data", "zone_movable_start"):
        assert getattr(part, field) in (None, getattr(whole, field))
    assert (part.pxm_to_node or {}).items() <= (whole.pxm_to_node or {}).items()
    assert set(part.messages) <= set(whole.messages)


@given(consoles)
def test_a_console_that_prints_every_line_twice_says_the_same(console: str) -> None:
    twice = "".join(line * 2 for line in console.splitlines(keepends=True))
    assert klog.parse(twice, kernel="k", ended="marker") == klog.parse(console, kernel="k", ended="marker")
    assert klog.firmware_facts(twice) == klog.firmware_facts(console)


@given(consoles)
def test_timestamps_and_carriage_returns_do_not_matter(console: str) -> None:
    bare = "\r\n".join([*klog.lines(console), ""])
    assert klog.parse(bare, kernel="k", ended="marker") == klog.parse(console, kernel="k", ended="marker")


@given(st.lists(noise, max_size=30))
def test_any_text_is_read(parts: list[str]) -> None:
    console = "\n".join([*parts, ""])
    klog.parse(console, kernel="k", ended="marker").to_json()
    klog.firmware_facts(console)
    klog.memblock_trace(console)


@given(noise)
def test_an_unfinished_line_is_not_a_line(text: str) -> None:
    last = text.replace("\n", "").replace("\r", "")
    assert klog.lines("one\n" + last) == ["one"]


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        ("000090", NumaReason.NO_MEMORY_AFFINITY),
        ("040000", NumaReason.NO_MEMORY_AFFINITY),
        ("040001", NumaReason.NO_SRAT),
        ("000000", NumaReason.NO_SRAT),
    ],
)
def test_a_table_that_cannot_be_mapped_is_absent(length: str, reason: NumaReason) -> None:
    listed = f"ACPI: SRAT 0x000000003FFE2270 {length} (v03 BOCHS  BXPC     00000001 BXPC 00000001)"
    console = f"{listed}\nNo NUMA configuration found\n"
    assert klog.parse(console, kernel="v6.1", ended="marker").numa_reason is reason
