"""`acpitk predict`: what the model says of a case."""

from __future__ import annotations

from typing import Any

import click

from acpitk.checks.differential import compare
from acpitk.checks.differential import findings as differences
from acpitk.checks.finding import Finding, Severity
from acpitk.checks.invariants import check
from acpitk.checks.selection import parse_selection
from acpitk.cli.findings import chosen_format, emit_located, format_options, selection_options
from acpitk.cli.inputs import STDIN, case_options, kernel_option, read_case
from acpitk.cli.output import emit, emit_json
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.kernel.prediction import Prediction
from acpitk.oracle.judge import Judge
from acpitk.oracle.store import find_oracle
from acpitk.report.located import Located
from acpitk.report.text import render_comparison, render_findings, render_prediction


@click.command("predict")
@case_options
@kernel_option("v6.1")
@click.option("--oracle", "oracle_name", metavar="NAME", help="Also by the kernel's own code, and compare.")
@selection_options
@format_options
def command(
    kernel: str,
    oracle_name: str | None,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    output_format: str | None,
    as_json: bool,
    **inputs: Any,
) -> int:
    """Predict nodes, zones and removable memory of a CASE file, or of tables on a machine.

    With --oracle the kernel's own code (see `acpitk oracle`) is asked as well; where it differs from its row
    of the model, that is a finding.

    Exit status 1: there are findings of severity error or warning; notes alone are clean.

    \b
    Examples:
      acpitk predict --srat srat.bin --slit slit.bin --mem 1G --cmdline movable_node
      acpitk predict --srat srat.bin --machine server.json --json
      acpitk predict case.json --kernel v6.1 --ignore POL-MEMORYLESS
      acpitk predict case.json --oracle v6.1
    """
    format_, selection = chosen_format(output_format, as_json), parse_selection(select, ignore)
    case = read_case(**inputs)
    prediction = predict(case, POLICIES[kernel])
    found = list(check(case, prediction))
    comparison = None
    document: dict[str, Any] = {}
    if oracle_name is not None:
        judge = Judge(find_oracle(oracle_name))
        outcome, log = judge.logged(case)
        comparison = compare(predict(case, POLICIES[judge.build.row]).outcome, outcome)
        found += differences(comparison)
        document = {"oracle": outcome.to_json() | {"log": log}}
    findings = selection.of(found)
    if format_ == "json":
        emit_json(prediction_document(prediction) | document | {"findings": [f.to_json() for f in findings]})
    elif format_ == "text":
        emit(render_prediction(prediction), render_findings(findings))
        if comparison is not None:
            emit(render_comparison(comparison))
    else:
        given = inputs["case"] or inputs["srat"]
        path = None if given == STDIN else str(given)
        located = [Located(finding=finding, path=path) for finding in findings]
        emit_located(format_, located, suite=f"acpitk predict {kernel}", examined=[str(given)])
    return exit_status(findings)


def prediction_document(prediction: Prediction) -> dict[str, Any]:
    """The outcome as JSON, and under `why` what led to it."""
    why = {
        "entries": [entry._asdict() for entry in prediction.entries],
        "kernel_nodes": {str(nid): list(owners) for nid, owners in sorted(prediction.kernel_nodes.items())},
        "allocations": [allocation._asdict() for allocation in prediction.allocations],
    }
    return prediction.outcome.to_json() | {"why": _without_none(why)}


def exit_status(findings: list[Finding]) -> int:
    """1 where a finding is an error or a warning, else 0."""
    return int(any(finding.severity is not Severity.NOTE for finding in findings))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
