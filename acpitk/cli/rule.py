"""`acpitk rule`: the catalogue of everything a check can say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from acpitk.checks.catalogue import RULES, Rule
from acpitk.checks.finding import Finding
from acpitk.checks.spec import lint
from acpitk.cli.inputs import json_option, shipped_corpus
from acpitk.cli.oracles import model_oracle
from acpitk.cli.output import emit, emit_json
from acpitk.corpus import load_corpus
from acpitk.errors import UsageError
from acpitk.machine import Case
from acpitk.report.text import render_findings, table

_KERNELS = ("v6.1", "v7.3")
"""The rows examples are looked for with; two, so that they can differ."""


@click.command("rule")
@click.argument("rule_id", metavar="[ID]", required=False)
@json_option
def command(rule_id: str | None, as_json: bool) -> int:
    """List the rules, all or those whose ID begins with ID, or explain the one whose ID it is.

    A rule is shown with an example where a case of the shipped corpus gives one.

    \b
    Examples:
      acpitk rule
      acpitk rule POL-
      acpitk rule POL-KERNEL-NODE
    """
    if rule_id is not None and rule_id in RULES:
        _show(RULES[rule_id], as_json)
        return 0
    chosen = [rule for rule in RULES.values() if rule.id.startswith(rule_id or "")]
    if not chosen:
        raise UsageError(f"no rule is called or begins with {rule_id!r}; acpitk rule lists them")
    if as_json:
        emit_json({"schema": 1, "rules": [_document(rule) for rule in chosen]})
    else:
        rows = ((rule.id, rule.severity.value, rule.title) for rule in chosen)
        emit(table("Rules", ("id", "severity", "title"), rows))
    return 0


def _show(rule: Rule, as_json: bool) -> None:
    example = _example(rule.id)
    if as_json:
        more = (
            {} if example is None else {"example": {"case": str(example[0]), "finding": example[1].to_json()}}
        )
        emit_json({"schema": 1, "rules": [_document(rule) | more]})
        return
    emit(
        Text(f"{rule.id} ({rule.severity.value}): {rule.title}", style="bold"),
        Text(f"\n{rule.explanation}\n\nadvice     {rule.advice}\nmechanism  {rule.mechanism}\n"),
    )
    if example is None:
        emit("No case of the shipped corpus gives it.")
    else:
        emit(f"Example: {example[0]}\n", render_findings([example[1]]))


def _document(rule: Rule) -> dict[str, Any]:
    return asdict(rule) | {"severity": rule.severity.value}


def _example(rule_id: str) -> tuple[Path, Finding] | None:
    """The first case of the shipped corpus that gives a finding of this rule, and the finding."""
    directory = shipped_corpus()
    stored = () if directory is None else load_corpus(directory).cases
    for path, each in stored:
        for finding in _judge(rule_id, each.case):
            if finding.id == rule_id:
                return path, finding
    return None


def _judge(rule_id: str, case: Case) -> Iterable[Finding]:
    if rule_id.startswith(("POL-", "DIFF-")):
        return model_oracle(_KERNELS).check(case)
    return lint(case.tables, machine=case.resolved())
