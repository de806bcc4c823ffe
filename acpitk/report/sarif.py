"""Findings as a SARIF 2.1.0 log (OASIS, Static Analysis Results Interchange Format), for code scanners.

Tables are binary, so a place is a byte offset (region.byteOffset, 3.30.11), not a line: the first byte of the
field or entry that the finding is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from acpitk.checks.catalogue import RULES, Rule
from acpitk.report.located import Located

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")


def sarif_log(results: Sequence[Located], *, version: str) -> dict[str, Any]:
    """One run of acpitk: the rules that were hit, from the catalogue, and a result for each finding.

    Args:
        results: findings with their files, in the order they are to appear.
        version: of acpitk.
    """
    rules = sorted({each.finding.id for each in results})
    index = {rule: at for at, rule in enumerate(rules)}
    driver = {"name": "acpitk", "version": version, "rules": [_rule(RULES[rule]) for rule in rules]}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": [_result(each, index) for each in results]}],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.explanation},
        "help": {"text": rule.advice},
        "defaultConfiguration": {"level": rule.severity.value},
        "properties": {"mechanism": rule.mechanism},
    }


def _result(located: Located, index: dict[str, int]) -> dict[str, Any]:
    finding = located.finding
    text = f"{finding.where}: expected {finding.expected}; actual {finding.actual}"
    out: dict[str, Any] = {
        "ruleId": finding.id,
        "ruleIndex": index[finding.id],
        "level": finding.severity.value,
        "message": {"text": f"{text}. {finding.advice}".rstrip()},
        "partialFingerprints": {"acpitk/signature": finding.signature},
        "locations": [_location(located)],
    }
    properties: dict[str, Any] = {"mechanism": finding.mechanism} if finding.mechanism else {}
    if finding.offset is not None:
        properties["tableOffset"] = finding.offset
    if finding.kernels:
        properties["kernels"] = list(finding.kernels)
    return out | ({"properties": properties} if properties else {})


def _location(located: Located) -> dict[str, Any]:
    where = {"fullyQualifiedName": located.finding.where}
    out: dict[str, Any] = {"logicalLocations": [where]}
    if located.path is not None:
        physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(located.path)}}
        if (offset := located.file_offset) is not None:
            physical["region"] = {"byteOffset": offset, "byteLength": 1}
        out["physicalLocation"] = physical
    return out


def _uri(path: str) -> str:
    """A file name as a URI reference (RFC 3986): absolute names with a scheme, all others relative."""
    quoted = "".join(
        chr(byte) if byte in _UNRESERVED else f"%{byte:02X}"
        for byte in path.encode("utf-8", "surrogateescape")
    )
    return f"file://{quoted}" if path.startswith("/") else quoted
