"""The catalogue and the code that emits findings say the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import acpitk
from acpitk.checks.catalogue import RULES, finding
from acpitk.checks.finding import Severity
from acpitk.iasl import Verdict

_ID = re.compile(r"(?:TABLE|SRAT|SLIT|MAP|POL|DIFF|BOOT|FUZZ|IASL)-[A-Z0-9-]+")
_PACKAGE = Path(acpitk.__file__).parent


def _emitted() -> set[str]:
    """Every rule ID written as a whole string in the package, and those iasl's verdicts are spelled into."""
    literals = {
        node.value
        for path in _PACKAGE.rglob("*.py")
        if path.name != "catalogue.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _ID.fullmatch(node.value)
    }
    return literals | {f"IASL-{v.name}" for v in Verdict if v not in (Verdict.SAME, Verdict.INEXPRESSIBLE)}


def test_every_emitted_id_is_in_the_catalogue_and_every_rule_is_emitted() -> None:
    assert _emitted() == set(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_a_rule_explains_itself(rule: object) -> None:
    texts = {name: getattr(rule, name) for name in ("title", "explanation", "advice", "mechanism")}
    assert all(texts.values())
    assert texts["title"] == texts["title"].strip().rstrip(".")
    assert 1 <= len(re.findall(r"[.:;](?:\s|$)", texts["explanation"])) <= 5
    assert texts["explanation"].endswith(".")
    assert texts["advice"].endswith(".")
    assert "  " not in "".join(texts.values())


def test_a_finding_takes_the_words_of_its_rule() -> None:
    plain = finding("SRAT-CHECKSUM", where="SRAT", expected="0x10", actual="0x11")
    assert (plain.severity, plain.advice) == (Severity.ERROR, RULES["SRAT-CHECKSUM"].advice)
    assert (
        finding("SRAT-CHECKSUM", where="", expected="", actual="", severity=Severity.NOTE).severity == "note"
    )
    with pytest.raises(KeyError):
        finding("SRAT-NO-SUCH-RULE", where="", expected="", actual="")
