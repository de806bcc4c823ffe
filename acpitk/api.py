"""The Python interface: what a program or a test needs, re-exported lazily from `acpitk`.

Tables are bytes, addresses integers in bytes, ranges half-open. Errors are `acpitk.errors`: `UsageError` and
`DecodeError` for input that cannot be used, `ToolError` for a missing or failed QEMU or kernel.

    >>> import acpitk
    >>> srat, slit = acpitk.topology_tables("0:mem=0-512M", "1:mem=512M-1G,hotplug", distances=["0,1=21"])
    >>> acpitk.decode_srat(srat).memory_affinities()[1].proximity_domain
    1
    >>> acpitk.lint([srat, slit], machine=acpitk.Q35(1 << 30))
    []
    >>> case = acpitk.Case(machine=acpitk.Q35(1 << 30), tables=(srat, slit), cmdline="movable_node")
    >>> acpitk.predict(case, "v6.1").outcome.zone_movable_start
    {1: 536870912}
    >>> [(finding.id, finding.actual) for finding in acpitk.findings(case, "v6.1")]
    [('POL-NOT-REMOVABLE', 'it has a hole')]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from acpitk.checks.finding import Finding, Severity
from acpitk.checks.invariants import check
from acpitk.checks.spec import lint as _lint
from acpitk.errors import AcpitkError, DecodeError, EncodeError, ToolError, UsageError
from acpitk.kernel.boot import predict as _predict
from acpitk.kernel.policy import POLICIES, KernelPolicy
from acpitk.kernel.prediction import Prediction
from acpitk.machine import Q35, Case, Machine
from acpitk.outcome import Outcome
from acpitk.tables.slit import Slit, build_slit, decode_slit, encode_slit
from acpitk.tables.srat import MemoryAffinity, MemoryFlags, Srat, build_srat, decode_srat, encode_srat
from acpitk.topology import parse_topology

__all__ = (
    "Q35",
    "AcpitkError",
    "Case",
    "DecodeError",
    "EncodeError",
    "Finding",
    "Machine",
    "MemoryAffinity",
    "MemoryFlags",
    "Outcome",
    "Prediction",
    "Severity",
    "Slit",
    "Srat",
    "ToolError",
    "UsageError",
    "boot",
    "build_slit",
    "build_srat",
    "decode_slit",
    "decode_srat",
    "encode_slit",
    "encode_srat",
    "findings",
    "lint",
    "predict",
    "topology_tables",
)


def topology_tables(*nodes: str, distances: Iterable[str] = (), revision: int = 3) -> tuple[bytes, ...]:
    """The SRAT and, where it fits, the SLIT of a topology in the words of `acpitk gen`.

    Args:
        nodes: for example `1:mem=512M-1G,hotplug,cpus=2-3`.
        distances: for example `0,1=21`, both ways.
        revision: of the SRAT.

    Raises:
        UsageError: naming the word and the part of it that is wrong.

    >>> [table[:4] for table in topology_tables("0:mem=0-1G")]
    [b'SRAT', b'SLIT']
    """
    srat, slit = parse_topology(nodes, distances).tables(revision=revision)
    return (encode_srat(srat), *([] if slit is None else [encode_slit(slit)]))


def predict(case: Case, kernel: str = "v6.1") -> Prediction:
    """What row `kernel` of the model says of `case`: its `outcome`, and why.

    Raises:
        UsageError: the model has no such row.

    >>> case = Case(machine=Q35(1 << 30), tables=topology_tables("0:mem=0-1G"))
    >>> predict(case).outcome.numa
    <NumaState.SRAT: 'srat'>
    """
    return _predict(case, _policy(kernel))


def findings(case: Case, kernel: str = "v6.1") -> list[Finding]:
    """What is surprising about that prediction: the rules `POL-*` of the catalogue.

    Raises:
        UsageError: the model has no such row.

    >>> srat, _ = topology_tables("0:mem=0-1G,hotplug")
    >>> case = Case(machine=Q35(1 << 30), tables=(srat,), cmdline="movable_node")
    >>> "POL-ALL-HOT" in {finding.id for finding in findings(case)}
    True
    """
    return list(check(case, predict(case, kernel)))


def lint(
    tables: Mapping[str, bytes] | Sequence[bytes], *, machine: Machine | Q35 | None = None
) -> list[Finding]:
    """Judge tables by the specification, each other and, where given, the memory map of `machine`.

    Args:
        tables: raw tables in root-table order; a mapping's keys name them in findings.
        machine: an explicit memory map or a QEMU guest.

    >>> srat, _ = topology_tables("0:mem=0-1G")
    >>> [finding.id for finding in lint([srat[:-1] + b"x"])]
    ['SRAT-CHECKSUM', 'SRAT-RESERVED']
    """
    if isinstance(machine, Q35):
        machine = machine.resolve(list(tables.values() if isinstance(tables, Mapping) else tables))
    return _lint(tables, machine=machine)


def boot(case: Case, kernel: str | Path = "v6.1", *, timeout: float = 60) -> Outcome:
    """What a real kernel makes of `case`, booted in QEMU.

    Args:
        kernel: the name of a fetched kernel, or the path of a bzImage or vmlinux.
        timeout: seconds.

    Raises:
        UsageError: the case cannot be given to QEMU, or `kernel` is neither a name nor a kernel.
        ToolError: QEMU or the kernel is not here, or the guest did not start.
    """
    from acpitk.qemu.argv import undeliverable
    from acpitk.qemu.image import find_kernel
    from acpitk.qemu.runner import boot as run

    if reasons := undeliverable(case):
        raise UsageError(f"this case cannot be booted: {reasons[0]}")
    return run(case, find_kernel(str(kernel)), timeout=timeout).outcome()


def _policy(name: str) -> KernelPolicy:
    if name not in POLICIES:
        raise UsageError(f"no row of the model is called {name!r}; known: {', '.join(POLICIES)}")
    return POLICIES[name]
