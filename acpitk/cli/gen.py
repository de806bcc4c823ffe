"""`acpitk gen`: write tables made from a topology, an existing table, or chance."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import click
import yaml

from acpitk.cli.inputs import PATH, json_option, load_tables, size
from acpitk.cli.output import emit_json, note, write_file
from acpitk.errors import DecodeError, UsageError
from acpitk.fuzz.mutators import MUTATORS
from acpitk.fuzz.strategies import draw_cases
from acpitk.machine import Q35, Case
from acpitk.qemu.argv import undeliverable
from acpitk.tables import asl
from acpitk.tables.header import seal
from acpitk.tables.slit import encode_slit
from acpitk.tables.srat import decode_srat, encode_srat
from acpitk.topology import Topology, parse_topology, set_hotplug, topology_from_mapping

_MOST_CASES = 10_000


@click.command("gen")
@click.option(
    "--node", "nodes", multiple=True, help="ID:mem=START-END[,hotplug][,nv][,sp][,disabled][,cpus=A-B]."
)
@click.option("--distance", "distances", multiple=True, help="FROM,TO=DISTANCE, both ways.")
@click.option("--topology", "topology_file", type=PATH, help="The same as YAML: nodes, distances.")
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
@click.option(
    "--mem", type=size, metavar="SIZE", default="4G", help="Guest size that mutations aim at.  [default: 4G]"
)
@click.option("-o", "--out", type=PATH, default=Path(), help="Directory to write to.  [default: .]")
@json_option
def command(
    nodes: tuple[str, ...],
    distances: tuple[str, ...],
    topology_file: Path | None,
    revision: int,
    source: Path | None,
    hotplug: tuple[str, ...],
    no_hotplug: tuple[str, ...],
    seed: int | None,
    count: int,
    mutators: tuple[str, ...],
    mem: int,
    out: Path,
    as_json: bool,
) -> int:
    """Write SRAT and SLIT tables and print the QEMU arguments that use them.

    Each case gives srat.bin and slit.bin, and an .asl next to each that iasl compiles to the same bytes.
    Random cases also give case.json, for predict and boot. Several cases are numbered.

    \b
    Examples:
      acpitk gen --node 0:mem=0-512M --node 1:mem=512M-1G,hotplug --distance 0,1=21 -o tables
      acpitk gen --topology nodes.yaml -o tables
      acpitk gen --from srat.bin --hotplug all-but-first -o tables
      acpitk gen --seed 7 --count 3 --mutate wrap-range -o tables
    """
    sources = {"--node": bool(nodes), "--topology": topology_file is not None, "--from": source is not None}
    chosen = [name for name, given in sources.items() if given]
    if len(chosen) > 1:
        raise UsageError(f"{chosen[0]} and {chosen[1]}: give one source of tables")
    if distances and not nodes:
        raise UsageError("--distance: give the nodes with --node, or distances in the --topology file")
    if (hotplug or no_hotplug) and source is None:
        raise UsageError("--hotplug and --no-hotplug change an existing table: give it with --from")
    if count > 1 and chosen:
        raise UsageError(f"--count: {chosen[0]} describes one case; --count is for random cases (--seed)")
    if unknown := [name for name in mutators if name not in MUTATORS]:
        raise UsageError(f"--mutate: no mutation is called {unknown[0]!r}; known: {', '.join(MUTATORS)}")

    cases: Iterable[Case]
    if source is not None:
        cases = [Case(machine=Q35(mem), tables=tuple(_changed(source, hotplug, no_hotplug)))]
    elif topology_file is not None:
        cases = [_from_topology(_read_topology(topology_file), revision, mem)]
    elif nodes:
        cases = [_from_topology(parse_topology(nodes, distances), revision, mem)]
    elif seed is not None:
        cases = draw_cases(seed, count)
    else:
        raise UsageError("nothing to make tables from: give --node, --topology, --from or --seed")

    written = []
    for index, case in enumerate(cases, start=1):
        rng = Random(f"{seed}:{index}")  # noqa: S311 (seeded on purpose)
        for name in mutators:
            case = MUTATORS[name].apply(case, rng)
        suffix = f"-{index:0{len(str(count))}}" if count > 1 else ""
        written.append(_write(case, out, suffix, with_case=not chosen))
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


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that does not let a key silently replace an earlier one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if str(key) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key} appears twice", key_node.start_mark
                )
            seen.add(str(key))
        return super().construct_mapping(node, deep)


def _read_topology(path: Path) -> Topology:
    try:
        document = yaml.load(path.read_bytes(), _UniqueKeys)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UsageError(f"{path}: {where}{error.problem}") from None
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        raise UsageError(f"{path}: not YAML: {error}") from None
    return topology_from_mapping(document, source=str(path))
