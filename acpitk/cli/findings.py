"""Findings on their way out: which of them count, and the formats that programs read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from acpitk import __version__
from acpitk.errors import UsageError
from acpitk.report.junit import junit_xml
from acpitk.report.located import Located
from acpitk.report.sarif import sarif_log

FORMATS = ("text", "json", "sarif", "junit")

Command = TypeVar("Command", bound=Callable[..., Any])


def format_options(command: Command) -> Command:
    """`--format` and its older spelling `--json`; pass both on to `chosen_format`."""
    command = click.option("--json", "as_json", is_flag=True, help="The same as --format json.")(command)
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(FORMATS),
        help="sarif for code scanners, junit for CI dashboards.  [default: text]",
    )(command)


def selection_options(command: Command) -> Command:
    """`--select` and `--ignore`; pass both on to `checks.selection.parse_selection`."""
    text = "Rule IDs or prefixes, with commas; may repeat. The longer match decides."
    command = click.option("--ignore", multiple=True, metavar="ID[,ID]", help="Leave these out.")(command)
    return click.option("--select", multiple=True, metavar="ID[,ID]", help=text)(command)


def chosen_format(output_format: str | None, as_json: bool) -> str:
    """One of `FORMATS`.

    Raises:
        UsageError: --json and another format.
    """
    if as_json and output_format not in (None, "json"):
        raise UsageError(f"--json and --format {output_format}: give the one or the other")
    return "json" if as_json else output_format or "text"


def emit_located(
    output_format: str, results: Sequence[Located], *, suite: str, examined: Iterable[str]
) -> None:
    """Write findings as SARIF or JUnit XML; `suite` and `examined` as for `junit_xml`."""
    if output_format == "sarif":
        json.dump(sarif_log(results, version=__version__), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(junit_xml(results, suite=suite, examined=examined))
