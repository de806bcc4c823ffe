"""`acpitk oracle`: the kernel's own code in a process, built here from packages or a tree."""

from __future__ import annotations

from pathlib import Path

import click

from acpitk.cli.inputs import json_option
from acpitk.cli.output import emit, emit_json, note
from acpitk.errors import UsageError
from acpitk.oracle.store import OracleBuild, build_packaged, build_tree, list_oracles
from acpitk.qemu.image import SUITES
from acpitk.report.text import table

_TREE = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group("oracle")
def command() -> None:
    """The kernel's early NUMA code, compiled from its source into a process: thousands of boots a second.

    It is built on this machine and stays on it: the result is kernel code under GPL-2.0.
    """


@command.command("build")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--source", type=_TREE, metavar="TREE", help="A kernel tree instead of Debian's packages.")
@click.option(
    "--headers", type=_TREE, multiple=True, metavar="DIR", help="Its configured headers, elsewhere."
)
@click.option("--name", metavar="NAME", help="What to call it.  [default: its release]")
def build_command(
    names: tuple[str, ...], source: Path | None, headers: tuple[Path, ...], name: str | None
) -> int:
    """Build oracles: of fetched kernels by NAME, or of a tree by --source.

    Debian's source and headers packages of the fetched kernel's version are downloaded with the system's apt,
    unpacked, compiled and deleted; nothing is installed. A tree needs its generated headers: in the tree
    (make prepare), or in --headers. A build must repeat the real boots that come with acpitk, line for line,
    where some are recorded of its release.

    \b
    Examples:
      acpitk oracle build v6.1 v7.3
      acpitk oracle build --source ~/linux --name mine
      acpitk oracle build --source linux-source-6.1 --headers /usr/src/linux-headers-6.1.0-56-cloud-amd64
    """
    if bool(names) == (source is not None):
        raise UsageError(f"give either names of kernels ({', '.join(SUITES)}) or --source TREE")
    if source is None and (headers or name):
        raise UsageError("--headers and --name go with --source")
    if source is not None:
        _say(build_tree(source, headers, name, progress=note))
    for each in names:
        _say(build_packaged(each, progress=lambda step, each=each: note(f"{each}: {step}")))  # type: ignore[misc]
    return 0


def _say(build: OracleBuild) -> None:
    print(f"{build.name} {build.release} {build.path}")


@command.command("list")
@json_option
def list_command(as_json: bool) -> int:
    """Which oracles there are.

    \b
    Example:
      acpitk oracle list
    """
    builds = list_oracles()
    if as_json:
        rows = [
            {"name": b.name, "release": b.release, "row": b.row, "gated": b.gated, "path": str(b.path)}
            for b in builds
        ]
        emit_json({"schema": 1, "oracles": rows})
        return 0
    shown = ((b.name, b.release, b.row, b.gated or "none recorded", b.path) for b in builds)
    emit(table("Oracles", ("name", "release", "row", "boots repeated", "path"), shown))
    return 0
