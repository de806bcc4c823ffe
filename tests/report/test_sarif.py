"""SARIF logs: valid by the official schema, and pointing where the finding is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.checks.catalogue import RULES, finding
from acpitk.checks.finding import Finding, Severity
from acpitk.report.located import Located
from acpitk.report.sarif import sarif_log

FINDINGS = st.builds(
    Finding,
    id=st.sampled_from(sorted(RULES)),
    severity=st.sampled_from(Severity),
    where=st.text(),
    expected=st.text(),
    actual=st.text(),
    offset=st.none() | st.integers(0, 1 << 32),
    advice=st.text(),
    mechanism=st.text(),
    cause=st.text(),
    kernels=st.lists(st.sampled_from(["v6.1", "v7.3"]), unique=True).map(tuple),
)
LOCATED = st.builds(
    Located,
    finding=FINDINGS,
    path=st.none() | st.text(min_size=1),
    base=st.none() | st.integers(0, 1 << 32),
)


@pytest.fixture(scope="module")
def schema() -> Any:
    """The official schema, which no package ships and this repository does not copy."""
    path = os.environ.get("ACPITK_SARIF_SCHEMA")
    if path is None:
        pytest.skip("set ACPITK_SARIF_SCHEMA to OASIS's sarif-schema-2.1.0.json")
    return json.loads(Path(path).read_text())


@given(results=st.lists(LOCATED, max_size=4))
def test_every_log_is_valid(schema: Any, results: list[Located]) -> None:
    log = json.loads(json.dumps(sarif_log(results, version="1.0")))
    jsonschema.validate(log, schema)


@given(results=st.lists(LOCATED, max_size=4))
def test_results_keep_order_and_point_at_their_rules(results: list[Located]) -> None:
    (run,) = sarif_log(results, version="1.0")["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert {rule["id"] for rule in rules} == {each.finding.id for each in results}
    assert len(run["results"]) == len(results)
    for result, each in zip(run["results"], results, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == each.finding.id
        assert result["partialFingerprints"] == {"acpitk/signature": each.finding.signature}
        place = result["locations"][0].get("physicalLocation", {})
        region = place.get("region", {})
        assert ("artifactLocation" in place) is (each.path is not None)
        assert region.get("byteOffset") == each.file_offset


def test_a_place_is_the_byte_of_the_file_not_of_the_table() -> None:
    found = finding("SRAT-CHECKSUM", where="SRAT header, Checksum", expected="0", actual="1", offset=9)
    (run,) = sarif_log([Located(finding=found, path="a b/ä.bin", base=100)], version="1.0")["runs"]
    physical = run["results"][0]["locations"][0]["physicalLocation"]
    assert physical["region"] == {"byteOffset": 109, "byteLength": 1}
    assert physical["artifactLocation"] == {"uri": "a%20b/%C3%A4.bin"}
    assert run["results"][0]["properties"]["tableOffset"] == 9


@pytest.mark.parametrize(
    ("path", "uri"),
    [("/x/y.bin", "file:///x/y.bin"), ("x:y", "x%3Ay"), ("\udcff", "%FF"), ("a#b?c%d", "a%23b%3Fc%25d")],
)
def test_a_file_name_is_a_uri_reference(path: str, uri: str) -> None:
    found = finding("SRAT-CHECKSUM", where="SRAT", expected="0", actual="1")
    (run,) = sarif_log([Located(finding=found, path=path)], version="1.0")["runs"]
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri
