"""`acpitk replay`: does a saved finding still come up?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from acpitk.checks.finding import Severity
from acpitk.cli.export import export
from acpitk.cli.inputs import PATH, boot_via_option, find_image, json_option, read_stored
from acpitk.cli.oracles import (
    BOOT,
    IASL,
    boot_oracle,
    example_line,
    iasl_oracle,
    kernels_oracle,
    model_oracle,
)
from acpitk.cli.output import check_file_target, emit, emit_json
from acpitk.cli.predict import exit_status
from acpitk.corpus import StoredCase
from acpitk.errors import UsageError
from acpitk.fuzz.campaign import Oracle
from acpitk.iasl import find_iasl
from acpitk.kernel.policy import POLICIES
from acpitk.qemu.boots import unbootable
from acpitk.report.text import render_findings, table


@click.command("replay")
@click.argument("finding", type=PATH)
@click.option("--boot", is_flag=True, help="Also boot it, and compare the kernel with the model.")
@click.option(
    "--kernel", "kernels", multiple=True, type=click.Choice(list(POLICIES)), help="Rows of the model."
)
@click.option("--kernel-image", "image", help="Fetched kernel or path.  [default: the finding's kernel]")
@click.option("--console", type=PATH, help="With --boot: save the console log; NAME.log gets into reports.")
@click.option(
    "--export", "directory", type=PATH, metavar="DIR", help="Write all that a maintainer needs to DIR."
)
@boot_via_option("fresh")
@click.option("--dry-run", is_flag=True, help="With --boot: print the QEMU line and stop.")
@json_option
def command(
    finding: Path,
    boot: bool,
    kernels: tuple[str, ...],
    image: str | None,
    console: Path | None,
    directory: Path | None,
    via: str,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Run the case of FINDING again and say whether the same finding comes up.

    Without --kernel, on the kernels the finding names. Exit status 1: it is reproduced, or --boot shows a
    difference between kernel and model; 0: it is gone. A case saved without a finding exits as predict.

    --export boots the case on every fetched kernel and writes tables, .asl source, boot.sh, console logs,
    prediction and REPORT.md; exit status 1: there is something to report.

    \b
    Examples:
      acpitk replay findings/pol-swept-1f0c6f6e-89127e2f4bd4.json
      acpitk replay findings/pol-swept-1f0c6f6e-89127e2f4bd4.json --boot --kernel v6.1
      acpitk replay findings/boot-oops-5d2b1a7c-4a0be5b1e2c1.json --export report
    """
    stored = read_stored(finding)
    known = stored.finding or {}
    if directory is not None:
        return _export(stored, directory, boot=boot, as_json=as_json)
    rows = kernels or _kernels(stored, known)
    if dry_run:
        if not boot:
            raise UsageError("--dry-run shows how a case boots: add --boot")
        print(example_line([stored.case], find_image(image or rows[0])))
        return 0
    if console is not None:
        if not boot:
            raise UsageError("--console saves what a boot prints: add --boot")
        check_file_target(console)
    oracles = list(_oracles(stored, str(known.get("oracle", "")), rows, boot, image, console, via))
    found = [each for oracle in oracles for each in oracle.check(stored.case)]
    signatures = {each.signature for each in found}
    expected = stored.findings or ((str(known["signature"]),) if "signature" in known else ())
    reproduced = {signature: signature in signatures for signature in expected}
    new_differences = [
        each for each in found if each.id.startswith("DIFF-") and each.signature not in expected
    ]
    if as_json:
        emit_json(
            {
                "schema": 1,
                "kernels": list(rows),
                "oracles": [oracle.name for oracle in oracles],
                "reproduced": reproduced,
                "findings": [each.to_json() for each in found],
            }
        )
    else:
        title = f"Replayed with: {', '.join(oracle.name for oracle in oracles)}; kernels: {', '.join(rows)}"
        verdicts = ((signature, "reproduced" if yes else "gone") for signature, yes in reproduced.items())
        shown = [each for each in found if each.signature in expected] if expected else found
        emit(table(title, ("finding", "verdict"), verdicts), render_findings([*shown, *new_differences]))
    if not expected:
        return exit_status(found)
    return int(any(reproduced.values()) or bool(new_differences and boot))


def _export(stored: StoredCase, directory: Path, *, boot: bool, as_json: bool) -> int:
    if boot:
        raise UsageError("--export boots every fetched kernel by itself: leave --boot out")
    done = export(stored, directory)
    affected = [fate.kernel for fate in done.fates if fate.shows(done.finding.signature)]
    if as_json:
        emit_json(
            {
                "schema": 1,
                "finding": done.finding.to_json(),
                "directory": str(directory),
                "booted": {fate.kernel: fate.words for fate in done.fates},
                "affected": affected,
            }
        )
    else:
        rows = ((fate.kernel, fate.version, fate.words) for fate in done.fates)
        title = f"{done.finding.signature}, written to {directory}"
        emit(table(title, ("kernel", "release", "what the boot came to"), rows))
    return int(bool(affected) or done.finding.severity is not Severity.NOTE)


def _kernels(stored: StoredCase, known: Mapping[str, Any]) -> tuple[str, ...]:
    """The rows the finding names, else v6.1."""
    named = (*known.get("kernels", ()), stored.kernel)
    return tuple(dict.fromkeys(name for name in named if name in POLICIES)) or ("v6.1",)


def _oracles(
    stored: StoredCase,
    oracle: str,
    rows: Iterable[str],
    boot: bool,
    image: str | None,
    console: Path | None,
    via: str,
) -> Iterator[Oracle]:
    rows = tuple(rows)
    if oracle.startswith(BOOT) and not boot:
        raise UsageError("this finding is about real kernels: add --boot")
    yield model_oracle(rows)
    if oracle == IASL:
        yield iasl_oracle(find_iasl())
    if boot:
        if reasons := unbootable(stored.case):
            raise UsageError(f"this case cannot be booted: {reasons[0]}")
        for row in rows if image is None else rows[:1]:
            yield boot_oracle(find_image(image or row), row, console=console, via=via)
        if len(rows) > 1 and image is None:
            yield kernels_oracle([find_image(row) for row in rows], via=via)
