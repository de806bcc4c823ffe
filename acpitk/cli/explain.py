"""`acpitk explain`: the story of one boot, step by step, with a map of its memory."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import asdict
from typing import Any

import click

from acpitk.checks.differential import compare
from acpitk.checks.invariants import check
from acpitk.cli.inputs import case_options, find_image, json_option, kernel_option, read_case
from acpitk.cli.oracles import example_line
from acpitk.cli.output import emit, emit_json
from acpitk.cli.predict import exit_status
from acpitk.errors import UsageError
from acpitk.images import predict_image
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES, policy_diff
from acpitk.machine import Case
from acpitk.outcome import Outcome
from acpitk.qemu.argv import undeliverable
from acpitk.qemu.runner import boot, find_qemu
from acpitk.report.addressmap import ASCII, UNICODE, Glyphs
from acpitk.report.explain import (
    Story,
    comparison_document,
    explain,
    explain_observed,
    render_behaviours,
    render_stories,
    render_story,
)

_WIDTH = 100
"""Columns of the map where nobody says how wide the page is."""


@click.command("explain")
@case_options
@kernel_option("v6.1")
@click.option("--compare", "other", type=click.Choice(list(POLICIES)), help="A second row, side by side.")
@click.option("--boot", "boots", is_flag=True, help="A real boot beside the model.")
@click.option("--kernel-image", "image_spec", help="What --boot boots.  [default: the kernel of --kernel]")
@click.option("--dry-run", is_flag=True, help="Print the QEMU line of --boot and stop.")
@json_option
def command(
    kernel: str,
    other: str | None,
    boots: bool,
    image_spec: str | None,
    dry_run: bool,
    as_json: bool,
    **inputs: Any,
) -> int:
    """Tell what becomes of the memory of a CASE in boot order: firmware said, kernel did, because.

    Above the story stands a map of the address space: e820, SRAT, memory in use, nodes, zones and memory
    blocks, RAM to scale. Exit status 1: findings of severity error or warning, or two sides that differ.

    \b
    Examples:
      acpitk explain case.json
      acpitk explain --srat srat.bin --mem 4G --cmdline movable_node --compare v7.3
      acpitk explain case.json --boot --kernel-image v6.1
      acpitk explain case.json --boot --dry-run
    """
    case = read_case(**inputs)
    if boots and other is not None:
        raise UsageError("--boot and --compare both want the second column: give one of them")
    if not boots and (image_spec is not None or dry_run):
        raise UsageError("--kernel-image and --dry-run are about --boot: give --boot too")
    if dry_run:
        print(example_line((case,), find_image(image_spec or kernel)))
        return 0
    policy = POLICIES[kernel]
    prediction = predict(case, policy)
    findings = list(check(case, prediction))
    story = explain(case, prediction, policy, findings)
    width, glyphs = _page()
    if other is None and not boots:
        if as_json:
            emit_json({"schema": 1, "kernel": kernel} | story.to_json())
        else:
            emit(render_story(story, width=width, glyphs=glyphs))
        return exit_status(findings)

    second, outcome = _second(case, kernel, other, image_spec)
    comparison = compare(prediction.outcome, outcome)
    if as_json:
        changed = [] if other is None else [asdict(each) for each in policy_diff(policy, POLICIES[other])]
        emit_json(
            {
                "schema": 1,
                "stories": [story.to_json(), second.to_json()],
                "comparison": comparison_document(comparison),
                "behaviours": changed,
            }
        )
    else:
        parts = [render_stories((story, second), comparison, width=width, glyphs=glyphs)]
        if other is not None:
            parts.append(render_behaviours(policy_diff(policy, POLICIES[other])))
        emit(*parts)
    return int(not comparison.agrees)


def _second(case: Case, kernel: str, other: str | None, image_spec: str | None) -> tuple[Story, Outcome]:
    """The second column: another row of the model, or a real boot of the first one's kernel."""
    if other is not None:
        prediction = predict(case, POLICIES[other])
        findings = check(case, prediction)
        return explain(case, prediction, POLICIES[other], findings), prediction.outcome
    if reasons := undeliverable(case):
        raise UsageError(f"this case cannot be booted: {reasons[0]}")
    qemu = find_qemu()
    image = find_image(image_spec or kernel)
    outcome = boot(case, image, qemu=qemu).outcome()
    prediction = predict_image(case, image, POLICIES[kernel])
    return explain_observed(case, prediction, outcome, POLICIES[kernel]), outcome


def _page() -> tuple[int, Glyphs]:
    """How wide a map may be, and whether stdout takes more than ASCII."""
    asked = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = shutil.get_terminal_size((_WIDTH, 24)).columns if asked else _WIDTH
    unicode = (sys.stdout.encoding or "ascii").lower().replace("-", "").startswith("utf")
    return max(width, 40), UNICODE if unicode else ASCII
