"""What commands read: options that several share, tables, machines and cases.

Where a file is read, `-` is standard input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from acpitk import corpus
from acpitk.errors import DecodeError, UsageError
from acpitk.kernel.policy import POLICIES
from acpitk.machine import MAX_RAM_END, Q35, Case, Machine, machine_from_json
from acpitk.qemu.boots import CHOICES
from acpitk.qemu.image import KernelImage, find_kernel
from acpitk.ranges import format_size, parse_size
from acpitk.tables.dump import MAX_SIZE, TableBlob, load, parse_dump
from acpitk.tables.srat import MemoryFlags, decode_srat

PATH = click.Path(path_type=Path)
STDIN = Path("-")
FROM_SRAT = -1
"""The value of `--mem srat`."""
_STDIN_NAME = "standard input"
_MACHINE_LIMIT = 16 << 20
_SHIPPED = (Path(__file__).parent.parent / "data" / "corpus", Path(__file__).parent.parent.parent / "corpus")
"""The corpus in an installed package, and in a checkout."""

Command = TypeVar("Command", bound=Callable[..., Any])


def size(text: str) -> int:
    """Option type: bytes in `512M`, `4G` or `0x20000000`."""
    try:
        return parse_size(str(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def guest_memory(text: str) -> int:
    """Option type of `--mem`: bytes, or `FROM_SRAT` for the word `srat`."""
    return FROM_SRAT if text == "srat" else size(text)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def boot_via_option(default: str) -> Callable[[Command], Command]:
    """`--boot-via`: how a case is run on a real kernel."""
    text = "Fork a guest kept ready, go back to a snapshot of one, or boot fresh; auto is the quickest here."
    return click.option(
        "--boot-via", "via", type=click.Choice(CHOICES), default=default, help=f"{text}  [default: {default}]"
    )


def kernel_option(default: str | None) -> Callable[[Command], Command]:
    """`--kernel`: a row of the model."""
    text = "Row of the model." + (f"  [default: {default}]" if default else "")
    return click.option("--kernel", type=click.Choice(list(POLICIES)), default=default, help=text)


def case_options(command: Command) -> Command:
    """The inputs of one case: a case file, or tables and a machine; pass them on to `read_case`."""
    for option in reversed(
        (
            click.argument("case", type=PATH, required=False),
            click.option("--srat", type=PATH, help="File with the SRAT: raw table or acpidump text."),
            click.option("--slit", type=PATH, help="File with the SLIT."),
            click.option("--machine", type=PATH, help="Machine as JSON: e820 map and reserved ranges."),
            click.option(
                "--mem",
                type=guest_memory,
                metavar="SIZE|srat",
                help="Instead of --machine: a QEMU q35 guest of this size, or with RAM up to the SRAT's end.",
            ),
            click.option("--initrd", type=size, metavar="SIZE", help="Size of the initrd of that guest."),
            click.option("--cmdline", help='Kernel command line, for example "movable_node".'),
        )
    ):
        command = option(command)
    return command


def read_case(
    *,
    case: Path | None,
    srat: Path | None,
    slit: Path | None,
    machine: Path | None,
    mem: int | None,
    initrd: int | None,
    cmdline: str | None,
) -> Case:
    """The case the shared options describe.

    Raises:
        UsageError: the options do not make one case, or a file is not what it should be.
    """
    if case is not None:
        given = {"--srat": srat, "--slit": slit, "--machine": machine, "--mem": mem, "--initrd": initrd}
        if extra := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{extra[0]}: a case file already says that; give the one or the other")
        stored = read_stored(case).case
        return stored if cmdline is None else replace(stored, cmdline=cmdline)
    if srat is None:
        raise UsageError("give a case file, or --srat with --mem or --machine")
    tables = [read_table(srat, b"SRAT")]
    if slit is not None:
        tables.append(read_table(slit, b"SLIT"))
    if mem == FROM_SRAT:
        mem = guest_of(tables[0]).memory
    return Case(machine=read_machine(machine, mem, initrd), tables=tuple(tables), cmdline=cmdline or "")


def guest_of(srat: bytes) -> Q35:
    """The q35 guest whose RAM ends where the SRAT's enabled memory does.

    Raises:
        UsageError: the SRAT describes no memory that a guest could have.
        DecodeError: as `decode_srat`.
    """
    ends = [
        entry.base + entry.length
        for entry in decode_srat(srat).memory_affinities()
        if entry.flags & MemoryFlags.ENABLED and entry.length and entry.base + entry.length <= MAX_RAM_END
    ]
    if not ends:
        raise UsageError("the SRAT has no enabled memory that a guest could have; say how large with --mem")
    return Q35.with_ram_to(max(ends))


def read_machine(machine: Path | None, mem: int | None, initrd: int | None) -> Q35 | Machine:
    """The machine of `--machine`, or of `--mem` and `--initrd`.

    Raises:
        UsageError: neither or both are given, or the file is not a machine document.
    """
    if machine is None:
        if mem is None:
            raise UsageError("no machine: give --mem SIZE or --machine FILE")
        return Q35(mem, initrd or 0)
    if mem is not None or initrd is not None:
        raise UsageError("--machine already describes the memory; leave out --mem and --initrd")
    return machine_from_json(_read_json(machine), source=str(machine))


def read_table(path: Path, signature: bytes) -> bytes:
    """The table of this 4-byte signature in a file of one or several tables.

    Raises:
        UsageError: the file holds no such table.
        DecodeError: the file holds no table at all.
    """
    blobs = load_tables(path)
    for blob in blobs:
        if blob.signature == signature:
            return blob.data
    found = ", ".join(describe(blob.signature) for blob in blobs)
    raise UsageError(f"{path}: no {signature.decode()} in it, only {found}")


def load_tables(path: Path) -> tuple[TableBlob, ...]:
    """The tables of a raw file, acpidump text, a directory, or a case or finding (`*.json`).

    Raises:
        UsageError, DecodeError: as `tables.dump.load` and `corpus.load_case`.
    """
    if not is_case(path):
        return parse_dump(read_stdin(), source=_STDIN_NAME) if path == STDIN else load(path)
    return tuple(
        TableBlob(signature=table[:4], data=table, source=str(path))
        for table in read_stored(path).case.tables
    )


def is_case(path: Path) -> bool:
    """Whether this is a case or a finding (JSON) and not tables, which never begin with a brace."""
    return read_stdin().lstrip().startswith(b"{") if path == STDIN else path.suffix == ".json"


def read_stored(path: Path) -> corpus.StoredCase:
    """A case or finding from a file or standard input.

    Raises:
        UsageError: as `corpus.load`.
    """
    return corpus.parse(read_stdin(), source=_STDIN_NAME) if path == STDIN else corpus.load(path)


def read_stdin() -> bytes:
    """All of standard input, read once for a command, so that `--srat - --slit -` takes both from it.

    Raises:
        UsageError: it is closed, or larger than any file of tables.
    """
    if sys.stdin is None:
        raise UsageError(f"{_STDIN_NAME} is closed: there is nothing to read")
    memory = click.get_current_context().find_root().meta
    if _STDIN_NAME not in memory:
        memory[_STDIN_NAME] = sys.stdin.buffer.read(MAX_SIZE + 1)
    data: bytes = memory[_STDIN_NAME]
    if len(data) > MAX_SIZE:
        raise UsageError(f"{_STDIN_NAME}: more than {MAX_SIZE >> 20} MiB: not a file of ACPI tables")
    return data


def shipped_corpus() -> Path | None:
    """The corpus that comes with acpitk."""
    return next((path for path in _SHIPPED if path.is_dir()), None)


def find_image(spec: str) -> KernelImage:
    """The kernel of `--kernel-image`.

    Raises:
        UsageError: neither a known name nor a file that holds a kernel.
        ToolError: a known kernel that was not fetched.
    """
    try:
        return find_kernel(spec)
    except DecodeError as error:
        raise UsageError(f"{spec}: {error}") from None


def describe(signature: bytes) -> str:
    """A table signature in words, whatever its bytes are."""
    return signature.decode("ascii") if signature.isalnum() else repr(signature)


def _read_json(path: Path) -> object:
    if path == STDIN:
        data = read_stdin()
    else:
        with path.open("rb") as file:
            data = file.read(_MACHINE_LIMIT + 1)
    if len(data) > _MACHINE_LIMIT:
        raise UsageError(f"{path}: larger than {format_size(_MACHINE_LIMIT)}: not a machine document")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
