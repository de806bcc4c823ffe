"""The command line: each command parses, calls one function, renders and returns its exit status."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence

import click

from acpitk import __version__
from acpitk.cli.output import one_line
from acpitk.errors import AcpitkError

CLEAN, FINDINGS, UNUSABLE, TOOL, INTERRUPTED = 0, 1, 2, 3, 130

COMMANDS = (
    "gen",
    "decode",
    "lint",
    "predict",
    "explain",
    "boot",
    "fuzz",
    "replay",
    "corpus",
    "diff",
    "report",
    "kernel",
    "oracle",
    "rule",
    "doctor",
    "completion",
)


class _Commands(click.Group):
    """Loads a command's module when that command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"acpitk.cli.{cmd_name}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="acpitk")
def acpitk() -> None:
    """What Linux makes of firmware memory-affinity tables: predicted, booted and fuzzed.

    Exit status: 0 clean, 1 findings or differences, 2 unusable input or usage, 3 a tool failed or is missing,
    130 interrupted.
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; every deliberate failure is one line on stderr."""
    try:
        with acpitk.make_context("acpitk", list(arguments)) as context:
            status = acpitk.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return UNUSABLE
    except click.ClickException as error:
        return _fail(error.format_message(), UNUSABLE)
    except AcpitkError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        return UNUSABLE  # whoever read our output has gone, and knows
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _fail(f"{where}{error.strerror or error}", UNUSABLE)
    except Exception:  # 1 must mean findings, so a defect of acpitk may not end with Python's own status
        traceback.print_exc()
        return _fail("internal error: please report it with the lines above and the input", TOOL)
    return status if isinstance(status, int) else CLEAN


def main() -> None:
    """Entry point of the `acpitk` program."""
    if "_ACPITK_COMPLETE" in os.environ:
        acpitk.main(prog_name="acpitk")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names go out as the bytes they came in
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:
        # What could not be written would fail again when Python closes stdout on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _terminated(number: int, _frame: object) -> None:
    """Leave by unwinding, so that guests and temporary files go too."""
    sys.exit(128 + number)


def _fail(message: str, status: int) -> int:
    print(f"acpitk: error: {one_line(message)}", file=sys.stderr)
    return status
