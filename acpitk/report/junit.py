"""Findings as JUnit XML, which test dashboards of CI systems read: one test case for each rule and file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from acpitk.checks.finding import Finding, Severity
from acpitk.report.located import Located


def junit_xml(results: Sequence[Located], *, suite: str, examined: Iterable[str]) -> str:
    """A document with one suite.

    A finding of severity error or warning is a failed test case, a note is a passed one with its text as
    output. An examined file without findings is a passed test case, so that a clean run is not an empty one.

    Args:
        results: findings with their files.
        suite: what ran, for example `acpitk lint`.
        examined: every file that was judged, as the user named it.
    """
    hit = {each.path for each in results}
    clean = [name for name in dict.fromkeys(examined) if name not in hit]
    failures = sum(each.finding.severity is not Severity.NOTE for each in results)
    counts = {"tests": str(len(results) + len(clean)), "failures": str(failures), "errors": "0"}
    root = ElementTree.Element("testsuites", counts)
    top = ElementTree.SubElement(root, "testsuite", {"name": suite} | counts)
    for name in clean:
        ElementTree.SubElement(top, "testcase", {"name": "no findings", "classname": _clean(name)})
    for each in results:
        finding = each.finding
        case = ElementTree.SubElement(
            top,
            "testcase",
            {"name": _clean(f"{finding.signature} {finding.where}"), "classname": _clean(each.path or suite)},
        )
        if finding.severity is Severity.NOTE:
            ElementTree.SubElement(case, "system-out").text = _clean(_text(finding))
        else:
            attributes = {"type": finding.severity.value, "message": _clean(finding.actual)}
            ElementTree.SubElement(case, "failure", attributes).text = _clean(_text(finding))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _text(finding: Finding) -> str:
    rows = [(name, getattr(finding, name)) for name in ("where", "expected", "actual", "advice", "mechanism")]
    rows.append(("kernels", ", ".join(finding.kernels)))
    offset = [] if finding.offset is None else [f"byte: {finding.offset:#x} of the table"]
    return "\n".join([*offset, *(f"{name}: {value}" for name, value in rows if value)])


def _clean(text: str) -> str:
    """`text` without what XML 1.0 cannot hold (section 2.2): control characters and lone surrogates."""
    return "".join(
        c if c in "\t\n" or c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
