"""`acpitk gen`: write tables made from a topology, an existing table, or chance."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import click

from acpitk.cli.inputs import PATH, STDIN, describe, json_option, load_tables, size
from acpitk.cli.output import emit, emit_json, note, write_file
from acpitk.cli.topologies import presets, read_preset, read_topology
from acpitk.errors import DecodeError, UsageError
from acpitk.fuzz.mutators import MUTATORS
from acpitk.fuzz.strategies import draw_cases
from acpitk.machine import Q35, Case
from acpitk.qemu.argv import undeliverable
from acpitk.ranges import GIB, format_size
from acpitk.report.text import table
from acpitk.tables import asl
from acpitk.tables.header import seal
from acpitk.tables.slit import encode_slit
from acpitk.tables.srat import decode_srat, encode_srat
from acpitk.topology import Topology, parse_topology, scale_above_4g, set_hotplug

_MOST_CASES = 10_000
_GUEST = 4 * GIB


@click.command("gen")
@click.option(
    "--node", "nodes", multiple=True, help="ID:mem=START-END[,hotplug][,nv][,sp][,disabled][,cpus=A-B]."
)
@click.option("--distance", "distances", multiple=True, help="FROM,TO=DISTANCE, both ways.")
@click.option("--topology", "topology_file", type=PATH, help="The same as YAML: nodes, distances.")
@click.option("--preset", metavar="NAME", help="A topology that comes with acpitk; list shows them.")
@click.option(
    "--scale",
    type=click.IntRange(1, 64),
    default=1,
    help="With --preset: so many times the memory above 4G.  [default: 1]",
)
@click.option("--revision", type=click.IntRange(1, 255), default=3, help="SRAT revision.  [default: 3]")
@click.option(
    "--from", "source", type=PATH, help="File of existing tables, kept byte by byte but for the changes."
)
@click.option("--hotplug", multiple=True, help="With --from: all, all-but-first, node=N or START-END.")
@click.option("--no-hotplug", multiple=True, help="With --from: clear it there, before --hotplug sets it.")
@click.option("--seed", type=int, help="Random tables (and random mutations) from this seed.")
@click.option("--count", type=click.IntRange(1, _MOST_CASES), default=1, help="How many random cases.")
@click.option(
    "--mutate", "mutators", multiple=True, metavar="NAME", help="Apply a named mutation; may repeat."
)
@click.option("--mem", type=size, metavar="SIZE", help="Guest size that mutations aim at.  [default: 4G]")
@click.option(
    "-o", "--out", type=PATH, default=Path(), help="Directory; - is one table to stdout.  [default: .]"
)
@click.option("--only", metavar="SIGNATURE", help="Of each case only this table: SRAT or SLIT.")
@json_option
def command(
    nodes: tuple[str, ...],
    distances: tuple[str, ...],
    topology_file: Path | None,
    preset: str | None,
    scale: int,
    revision: int,
    source: Path | None,
    hotplug: tuple[str, ...],
    no_hotplug: tuple[str, ...],
    seed: int | None,
    count: int,
    mutators: tuple[str, ...],
    mem: int | None,
    out: Path,
    only: str | None,
    as_json: bool,
) -> int:
    """Write SRAT and SLIT tables and print the QEMU arguments that use them.

    Each case gives srat.bin and slit.bin, and an .asl next to each that iasl compiles to the same bytes.
    Random cases and presets also give case.json, for predict and boot. Several cases are numbered.

    \b
    Examples:
      acpitk gen --node 0:mem=0-512M --node 1:mem=512M-1G,hotplug --distance 0,1=21 -o tables
      acpitk gen --topology nodes.yaml -o tables
      acpitk gen --preset two-socket -o tables
      acpitk gen --preset two-socket --only SRAT -o - | acpitk decode -
      acpitk gen --from srat.bin --hotplug all-but-first -o tables
      acpitk gen --seed 7 --count 3 --mutate wrap-range -o tables
    """
    if preset == "list":
        _list_presets(as_json)
        return 0
    sources = {
        "--node": bool(nodes),
        "--topology": topology_file is not None,
        "--preset": preset is not None,
        "--from": source is not None,
    }
    chosen = [name for name, given in sources.items() if given]
    if len(chosen) > 1:
        raise UsageError(f"{chosen[0]} and {chosen[1]}: give one source of tables")
    if distances and not nodes:
        raise UsageError("--distance: give the nodes with --node, or distances in the --topology file")
    if scale != 1 and preset is None:
        raise UsageError("--scale: changes the size of a preset: give one with --preset")
    if (hotplug or no_hotplug) and source is None:
        raise UsageError("--hotplug and --no-hotplug change an existing table: give it with --from")
    if count > 1 and chosen:
        raise UsageError(f"--count: {chosen[0]} describes one case; --count is for random cases (--seed)")
    if unknown := [name for name in mutators if name not in MUTATORS]:
        raise UsageError(f"--mutate: no mutation is called {unknown[0]!r}; known: {', '.join(MUTATORS)}")

    cases: Iterable[Case]
    if source is not None:
        cases = [Case(machine=Q35(mem or _GUEST), tables=tuple(_changed(source, hotplug, no_hotplug)))]
    elif topology_file is not None:
        file = read_topology(topology_file)
        cases = [_from_topology(file.topology, revision, mem or file.guest or _GUEST)]
    elif preset is not None:
        cases = [_from_preset(preset, scale, revision, mem)]
    elif nodes:
        cases = [_from_topology(parse_topology(nodes, distances), revision, mem or _GUEST)]
    elif seed is not None:
        cases = draw_cases(seed, count)
    else:
        raise UsageError("nothing to make tables from: give --node, --topology, --from or --seed")

    written: list[dict[str, Any]] = []
    for index, case in enumerate(cases, start=1):
        rng = Random(f"{seed}:{index}")  # noqa: S311 (seeded on purpose)
        for name in mutators:
            case = MUTATORS[name].apply(case, rng)
        if only is not None:
            case = _only(case, only)
        if out == STDIN:
            _to_stdout(case, as_json, count)
            return 0
        suffix = f"-{index:0{len(str(count))}}" if count > 1 else ""
        written.append(_write(case, out, suffix, with_case=not chosen or preset is not None))
    if as_json:
        emit_json({"schema": 1, "cases": written})
    else:
        for row in written:
            print(shlex.join(row["qemu"]))
    return 0


def _from_topology(topology: Topology, revision: int, mem: int) -> Case:
    srat, slit = topology.tables(revision=revision)
    if slit is None:
        note("no SLIT: the highest proximity domain is too large for one")
    tables = (encode_srat(srat), *([encode_slit(slit)] if slit else []))
    return Case(machine=Q35(mem), tables=tables)


def _from_preset(name: str, scale: int, revision: int, mem: int | None) -> Case:
    """The case of a preset: its tables on the guest they describe, with movable_node."""
    file = read_preset(name)
    guest = file.guest or _GUEST
    low = Q35(guest).low_end
    case = _from_topology(scale_above_4g(file.topology, scale), revision, mem or low + (guest - low) * scale)
    return replace(case, cmdline="movable_node")


def _list_presets(as_json: bool) -> None:
    known = {name: read_preset(name) for name in presets()}
    if as_json:
        emit_json(
            {
                "schema": 1,
                "presets": [
                    {"name": name, "description": file.description, "guest": file.guest}
                    for name, file in known.items()
                ],
            }
        )
        return
    rows = (
        (name, format_size(file.guest or _GUEST), len(file.topology.nodes), file.description)
        for name, file in known.items()
    )
    emit(table("Presets", ("name", "guest>", "nodes>", "stands for"), rows))


def _only(case: Case, signature: str) -> Case:
    """The case with just its tables of one signature."""
    kept = tuple(data for data in case.tables if data[:4] == signature.upper().encode())
    if not kept:
        found = ", ".join(describe(data[:4]) for data in case.tables)
        raise UsageError(f"--only {signature}: there is only {found}")
    return replace(case, tables=kept)


def _to_stdout(case: Case, as_json: bool, count: int) -> None:
    """Write the one table of the one case."""
    if as_json or count > 1:
        raise UsageError(
            "-o -: writes one table to stdout; leave out --json and --count, or name a directory"
        )
    if len(case.tables) != 1:
        found = ", ".join(describe(data[:4]) for data in case.tables)
        raise UsageError(f"-o -: writes one table to stdout, and there are {found}: choose one with --only")
    if sys.stdout.isatty():
        raise UsageError("-o -: stdout is a terminal, and a table is no text: send it to a file or a pipe")
    sys.stdout.flush()
    sys.stdout.buffer.write(case.tables[0])
    sys.stdout.buffer.flush()


def _changed(source: Path, hotplug: Iterable[str], no_hotplug: Iterable[str]) -> Iterator[bytes]:
    """The tables of a file, the SRAT's hotplug flags changed; a table that was well formed stays so."""
    changes = [(selector, False) for selector in no_hotplug] + [(selector, True) for selector in hotplug]
    blobs = load_tables(source)
    if changes and all(blob.signature != b"SRAT" for blob in blobs):
        raise UsageError(f"{source}: no SRAT in it to change")
    for blob in blobs:
        if not changes or blob.signature != b"SRAT":
            yield blob.data
            continue
        srat = decode_srat(blob.data)
        for selector, state in changes:
            srat = set_hotplug(srat, selector, hotplug=state)
        data = encode_srat(srat)
        yield seal(data) if seal(blob.data) == blob.data else data


def _write(case: Case, directory: Path, suffix: str, *, with_case: bool) -> dict[str, Any]:
    """Write one case's files; what was written, and the QEMU arguments for it."""
    directory.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    arguments: list[str] = []
    for data in case.tables:
        stem = directory / f"{_stem(data)}{suffix}"
        if stem.with_suffix(".bin") in files:
            stem = directory / f"{stem.name}-{len(files)}"
        files.append(stem.with_suffix(".bin"))
        write_file(files[-1], data)
        arguments += ["-acpitable", f"file={str(files[-1]).replace(',', ',,')}"]
        try:
            source, losses = asl.render(data), asl.inexpressible(data)
        except DecodeError as error:
            note(f"{files[-1]}: no .asl: {error}")
            continue
        files.append(stem.with_suffix(".asl"))
        write_file(files[-1], source.encode())
        for loss in losses:
            note(f"{files[-1]}: iasl cannot make the same bytes from it: {loss}")
    if with_case:
        files.append(directory / f"case{suffix}.json")
        write_file(files[-1], json.dumps(case.to_json(), indent=1).encode() + b"\n")
    for reason in undeliverable(case):
        note(f"QEMU cannot pass this on as it is: {reason}")
    return {"files": [str(path) for path in files], "qemu": arguments}


def _stem(data: bytes) -> str:
    signature = data[:4]
    return signature.decode().lower() if signature.isalnum() else "table"
