"""`acpitk kernel`: the real kernels that boot, list and fetch them."""

from __future__ import annotations

import click

from acpitk.cli.inputs import json_option
from acpitk.cli.output import emit, emit_json, note
from acpitk.qemu.image import SUITES, fetch, list_kernels
from acpitk.report.text import table


@click.group("kernel")
def command() -> None:
    """Real kernels to boot: Debian's, by name, unpacked into a cache without being installed."""


@command.command("list")
@json_option
def list_command(as_json: bool) -> int:
    """Which kernels there are, and which of them are here.

    \b
    Example:
      acpitk kernel list
    """
    here = {image.name: image for image in list_kernels()}
    if as_json:
        emit_json(
            {
                "schema": 1,
                "kernels": [
                    {"name": name, "fetched": name in here}
                    | ({"version": here[name].version, "path": str(here[name].path)} if name in here else {})
                    for name in SUITES
                ],
            }
        )
        return 0
    rows = (
        (n, here[n].version if n in here else "not fetched", here[n].path if n in here else "")
        for n in SUITES
    )
    emit(table("Kernels", ("name", "version", "path"), rows))
    return 0


@command.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def fetch_command(names: tuple[str, ...]) -> int:
    """Fetch kernels with the system's apt; nothing is installed.

    \b
    Example:
      acpitk kernel fetch v6.1 v7.3
    """
    for name in names:
        image = fetch(name, progress=lambda step, name=name: note(f"{name}: {step}"))  # type: ignore[misc]
        print(f"{image.name} {image.version} {image.path}")
    return 0
