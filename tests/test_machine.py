"""Machines and cases: JSON both ways, errors that name the field, QEMU's q35."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.errors import UsageError
from acpitk.fuzz.strategies import cases
from acpitk.machine import Q35, Case, Machine, case_from_json, machine_from_json
from acpitk.ranges import GIB, MIB


@given(cases())
def test_a_case_survives_json(case: Case) -> None:
    assert case_from_json(json.loads(json.dumps(case.to_json())), source="test") == case


@given(st.integers(128, 978 * 1024).map(lambda m: Q35(m * MIB)))
def test_an_explicit_machine_survives_json(q35: Q35) -> None:
    machine = q35.resolve((bytes(100),))
    read = machine_from_json(json.loads(json.dumps(machine.to_json())), source="test")
    assert isinstance(read, Machine)
    assert (read.e820, read.placed) == (machine.e820, machine.placed)


@given(st.integers(128, 978 * 1024).map(lambda m: Q35(m * MIB)))
def test_a_q35_has_its_memory_and_no_overlaps(q35: Q35) -> None:
    machine = q35.resolve(())
    assert sum(ram.size for ram in q35.ram) == q35.memory
    assert all(a.end <= b.start for a, b in zip(machine.e820, machine.e820[1:], strict=False))
    assert Q35.with_ram_to(q35.ram[-1].end) == q35


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "expected a JSON object"),
        ({}, "neither 'e820' nor 'q35'"),
        ({"q35": {}}, r"q35\.memory: expected a whole number"),
        ({"q35": {"memory": True}}, r"q35\.memory"),
        ({"q35": {"memory": 12345}}, "multiple of 1M"),
        ({"q35": {"memory": GIB, "initrd": GIB}}, "does not fit"),
        ({"e820": 5}, "e820: expected a JSON array"),
        ({"e820": [{"start": 1, "end": 1, "type": "usable"}]}, r"e820\[0\]: end 0x1 is not above"),
        ({"e820": [{"start": 0, "end": 1, "type": "ram"}]}, "'ram' is not one of usable"),
        ({"e820": [], "reserved": [{"start": 0}]}, r"reserved\[0\]\.end"),
    ],
)
def test_what_is_no_machine_is_refused_by_field(document: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        machine_from_json(document, source="m.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tables": ["***"]}, r"tables\[0\]: not base64"),
        ({"tables": {}}, "tables: expected a JSON array"),
        ({"cmdline": 3}, "cmdline: not a string"),
        ({"machine": None}, "machine: expected a JSON object"),
    ],
)
def test_what_is_no_case_is_refused_by_field(change: dict[str, Any], message: str) -> None:
    document = Case(machine=Q35(GIB)).to_json() | change
    with pytest.raises(UsageError, match=message):
        case_from_json(document, source="c.json")
