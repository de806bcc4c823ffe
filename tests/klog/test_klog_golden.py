"""Consoles of real kernels, recorded by record.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acpitk import klog
from acpitk.outcome import NumaReason, NumaState, Outcome, Region
from acpitk.ranges import MIB

LOGS = Path(__file__).parent / "logs"
GOLDEN = sorted(LOGS.glob("*/*.log"))


def parse(path: Path) -> Outcome:
    ended = json.loads(path.with_suffix(".json").read_text())["ended"]
    return klog.parse(path.read_text(), kernel=path.stem, ended=ended)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_golden_console(path: Path) -> None:
    assert parse(path).to_json() == json.loads(path.with_suffix(".json").read_text())["outcome"]


@pytest.mark.parametrize("kernel", ["v6.1", "v7.3"])
@pytest.mark.parametrize(
    ("name", "state", "reason"),
    [
        ("accepted", NumaState.SRAT, NumaReason.ACCEPTED),
        ("overlap", NumaState.DUMMY, NumaReason.OVERLAP),
        ("coverage", NumaState.DUMMY, NumaReason.COVERAGE),
        ("zero-length", NumaState.DUMMY, NumaReason.ZERO_LENGTH),
        ("numa-off", NumaState.OFF, NumaReason.TURNED_OFF),
        ("bad-slit", NumaState.SRAT, NumaReason.ACCEPTED),
        ("one-page-uncovered", NumaState.SRAT, NumaReason.ACCEPTED),
    ],
)
def test_numa_state_and_reason(kernel: str, name: str, state: NumaState, reason: NumaReason) -> None:
    outcome = parse(LOGS / name / f"{kernel}.log")
    assert (outcome.numa, outcome.numa_reason) == (state, reason)


@pytest.mark.parametrize("kernel", ["v5.10", "v6.1", "v6.12", "v7.3"])
def test_hotplug_node_of_every_kernel(kernel: str) -> None:
    outcome = parse(LOGS / "accepted" / f"{kernel}.log")
    assert outcome.pxm_to_node == {0: 0, 1: 1}
    assert outcome.zone_movable_start == {1: 512 * MIB}
    assert outcome.memory is not None
    assert outcome.memory[-1] == Region(512 * MIB, 0x3FFE0000, 1, ("hotplug",))
    assert outcome.node_data is not None
    assert [(n.nid, n.on_nid) for n in outcome.node_data] == [(0, 0), (1, 0)]
    assert outcome.panic is None


def test_the_dump_after_numa_init_is_the_one_that_counts() -> None:
    console = (LOGS / "accepted" / "v6.1.log").read_text()
    first = klog.firmware_facts(console).memory
    assert first is not None
    assert all(region.nid is None and not region.flags for region in first)


@pytest.mark.parametrize(
    ("kernel", "panic"),
    [
        ("v6.1", "BUG: kernel NULL pointer dereference in free_area_init"),
        ("v7.3", "BUG: kernel NULL pointer dereference in mm_core_init_early"),
    ],
)
def test_an_oops_is_named_by_its_function(kernel: str, panic: str) -> None:
    assert parse(LOGS / "one-page-uncovered" / f"{kernel}.log").panic == panic


def test_firmware_facts_of_a_kernel_with_its_own_e820_words() -> None:
    facts = [klog.firmware_facts((LOGS / "accepted" / f"{k}.log").read_text()) for k in ("v6.1", "v7.3")]
    assert facts[0].e820 == facts[1].e820
    assert facts[0].e820[0] == (0, 0x9FC00, "usable")
    assert facts[0].acpi_tables == facts[1].acpi_tables
    assert [t.length for t in facts[0].acpi_tables if t.signature == "SRAT"] == [144]
    assert facts[0].nr_node_ids == facts[1].nr_node_ids == 2


@pytest.mark.parametrize("kernel", ["v5.10", "v6.1", "v6.12", "v7.3"])
def test_memblock_trace_shows_the_distance_table(kernel: str) -> None:
    trace = klog.memblock_trace((LOGS / "accepted" / f"{kernel}.log").read_text())
    reserved = {(c.start, c.end) for c in trace if c.call == "reserve"}
    assert {(0x10000, 0x10004), (0x100000, 0x100004)} & reserved
    assert any(c.caller == "numa_alloc_distance" for c in trace)


def test_a_log_cut_in_the_dump_observes_no_memory() -> None:
    whole = (LOGS / "accepted" / "v6.1.log").read_text()
    cut = whole[: whole.rindex(" reserved[0x2]")]
    outcome = klog.parse(cut, kernel="v6.1", ended="timeout")
    assert (outcome.memory, outcome.reserved, outcome.node_data, outcome.zone_movable_start) == (None,) * 4
    assert outcome.numa is None
    assert outcome.pxm_to_node == {0: 0, 1: 1}
    assert outcome.panic == "hang"
