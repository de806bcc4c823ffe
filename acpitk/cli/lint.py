"""`acpitk lint`: judge tables by the specification, each other and the memory map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from acpitk.checks.spec import lint
from acpitk.cli.inputs import PATH, describe, json_option, load_tables, read_machine, size
from acpitk.cli.output import emit, emit_json
from acpitk.cli.predict import exit_status
from acpitk.machine import Q35
from acpitk.report.text import render_findings
from acpitk.tables.dump import TableBlob


@click.command("lint")
@click.argument("files", type=PATH, nargs=-1, required=True)
@click.option("--machine", type=PATH, help="Judge the SRAT against this memory map too (JSON).")
@click.option("--mem", type=size, metavar="SIZE", help="Instead of --machine: a QEMU q35 guest of this size.")
@json_option
def command(files: tuple[Path, ...], machine: Path | None, mem: int | None, as_json: bool) -> int:
    """Judge the tables in FILES, which together are the tables of one machine.

    Exit status 1: there are findings of severity error or warning; notes alone are clean.

    \b
    Examples:
      acpitk lint srat.bin slit.bin
      acpitk lint acpidump.txt --machine server.json
      acpitk lint srat.bin --mem 4G --json
    """
    blobs = [blob for path in files for blob in load_tables(path)]
    against = read_machine(machine, mem, None) if machine is not None or mem is not None else None
    if isinstance(against, Q35):
        against = against.resolve([blob.data for blob in blobs])
    findings = lint(_named(blobs), machine=against)
    if as_json:
        emit_json([finding.to_json() for finding in findings])
    else:
        emit(render_findings(findings))
    return exit_status(findings)


def _named(blobs: Sequence[TableBlob]) -> dict[str, bytes]:
    """Tables by signature; of a signature that comes again, with its place among all tables."""
    named: dict[str, bytes] = {}
    for index, blob in enumerate(blobs, start=1):
        name = describe(blob.signature)
        named[f"{name} (table {index})" if name in named else name] = blob.data
    return named
