"""JUnit XML, read back by a library for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from junitparser import Failure, JUnitXml, TestSuite

from acpitk.checks.catalogue import finding
from acpitk.checks.finding import Finding, Severity
from acpitk.report.junit import junit_xml
from acpitk.report.located import Located

TEXT = st.text(st.characters(), max_size=20)
FINDINGS = st.builds(
    Finding,
    id=st.just("SRAT-CHECKSUM"),
    severity=st.sampled_from(Severity),
    where=TEXT,
    expected=TEXT,
    actual=TEXT,
    advice=TEXT,
)
LOCATED = st.builds(Located, finding=FINDINGS, path=st.none() | TEXT)


def _read(text: str) -> TestSuite:
    (suite,) = JUnitXml.fromstring(text.encode())
    assert isinstance(suite, TestSuite)
    return suite


@given(results=st.lists(LOCATED, max_size=4), examined=st.lists(TEXT, max_size=3))
def test_whatever_the_findings_say_a_reader_counts_the_same(
    results: list[Located], examined: list[str]
) -> None:
    suite = _read(junit_xml(results, suite="acpitk lint", examined=examined))
    cases = list(suite)
    failed = [case for case in cases if any(isinstance(each, Failure) for each in case.result)]
    clean = set(examined) - {each.path for each in results}
    assert suite.tests == len(cases) == len(results) + len(clean)
    assert suite.failures == len(failed)
    assert len(failed) == sum(each.finding.severity is not Severity.NOTE for each in results)


def test_a_failure_says_where_what_and_what_to_do() -> None:
    found = finding("SRAT-CHECKSUM", where="SRAT header, Checksum", expected="0x10", actual="0x11", offset=9)
    suite = _read(
        junit_xml([Located(finding=found, path="bad.bin")], suite="s", examined=["good.bin", "bad.bin"])
    )
    clean, failed = list(suite)
    assert (clean.classname, clean.result) == ("good.bin", [])
    assert (failed.classname, failed.name) == ("bad.bin", "SRAT-CHECKSUM SRAT header, Checksum")
    (result,) = failed.result
    assert (result.type, result.message) == ("error", "0x11")
    for words in ("byte: 0x9", "expected: 0x10", found.advice, found.mechanism):
        assert words in result.text
