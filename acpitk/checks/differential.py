"""Outcome against outcome: the model against a kernel, or one kernel against another.

Each field is AGREE, DIFFER or NOT_OBSERVED; the last is counted and shown, so that a comparison of two
outcomes that observed nothing does not look like agreement. Messages are not compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial
from itertools import pairwise, zip_longest
from typing import Any

from acpitk.checks.catalogue import finding
from acpitk.checks.finding import Finding, Severity
from acpitk.outcome import Block, NodeData, Outcome, Region

_LISTED = 3
"""Differences spelled out in a finding; all of them are in the comparison."""


class Verdict(StrEnum):
    """What comparing one field came to."""

    AGREE = "agree"
    DIFFER = "differ"
    NOT_OBSERVED = "not observed"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference: the field, the place in it, and both values in words."""

    field: str
    where: str
    expected: str
    actual: str

    def __str__(self) -> str:
        """One line: `zones, node 1 Movable: expected 0x20000000-0x40000000, got absent`."""
        place = f"{self.field}, {self.where}" if self.where else self.field
        return f"{place}: expected {self.expected}, got {self.actual}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two outcomes compared.

    Args:
        expected, actual: source and kernel of each side, for example `("model", "v6.1")`.
        fields: verdict of every compared field, in the order of `Outcome`.
        differences: every difference, grouped by field in the same order.
    """

    expected: tuple[str, str]
    actual: tuple[str, str]
    fields: Mapping[str, Verdict]
    differences: tuple[Difference, ...]

    @property
    def agrees(self) -> bool:
        """Whether no field differs; fields that were not observed do not count."""
        return not self.differences

    @property
    def counts(self) -> Mapping[Verdict, int]:
        """How many fields have each verdict; all three are always there."""
        counted = Counter(self.fields.values())
        return {verdict: counted[verdict] for verdict in Verdict}

    def of(self, field: str) -> list[Difference]:
        """The differences of one field."""
        return [row for row in self.differences if row.field == field]

    @property
    def sides(self) -> str:
        """What tells the sides apart: `model and boot`, `v6.1 and v7.3`, or both words, as of two boots."""
        if self.expected[1] == self.actual[1]:
            return f"{self.expected[0]} and {self.actual[0]}"
        if self.expected[0] == self.actual[0] != "boot":
            return f"{self.expected[1]} and {self.actual[1]}"
        return f"{' '.join(self.expected)} and {' '.join(self.actual)}"


Rows = Iterator[tuple[str, str, str]]
"""Place, expected, actual."""

_ABSENT = "absent"
_DEAD = "panic: "
_SIZED = ("reserved", "node_data")


def _value(expected: object, actual: object) -> Rows:
    if expected != actual:
        yield "", str(expected), str(actual)


def _panic(expected: str | None, actual: str | None) -> Rows:
    if expected != actual and (expected is None or actual is None or not same_panic(expected, actual)):
        yield "", _fate(expected), _fate(actual)


def _fate(panic: str | None) -> str:
    return "the kernel lives" if panic is None else f"{_DEAD}{panic}"


def _common_keys(expected: Mapping[int, int], actual: Mapping[int, int]) -> Rows:
    for pxm in sorted(expected.keys() & actual.keys()):
        if expected[pxm] != actual[pxm]:
            yield f"proximity domain {pxm}", f"node {expected[pxm]}", f"node {actual[pxm]}"


def _movable_start(expected: Mapping[int, int], actual: Mapping[int, int]) -> Rows:
    for nid in sorted(expected.keys() | actual.keys()):
        before, after = (f"{side[nid]:#x}" if nid in side else "none" for side in (expected, actual))
        if before != after:
            yield f"node {nid}", before, after


def _matrix(expected: tuple[tuple[int, ...], ...], actual: tuple[tuple[int, ...], ...]) -> Rows:
    if len(expected) != len(actual):
        yield "", f"{len(expected)} nodes", f"{len(actual)} nodes"
        return
    for i, rows in enumerate(zip(expected, actual, strict=True)):
        for j, (before, after) in enumerate(zip_longest(*rows, fillvalue=_ABSENT)):
            if before != after:
                yield f"node {i} to {j}", str(before), str(after)


def _rows(
    key: Callable[[Any], Any],
    place: Callable[[Any], str],
    text: Callable[[Any], str],
    expected: Iterable[Any],
    actual: Iterable[Any],
) -> Rows:
    """Rows matched by `key`, whatever their order; several rows of one key are compared together."""
    if expected == actual:
        return
    before, after = _by_key(key, expected), _by_key(key, actual)
    for name in sorted(before.keys() | after.keys()):
        left, right = before.get(name, []), after.get(name, [])
        if Counter(left) != Counter(right):
            words = [" + ".join(sorted(map(text, rows))) or _ABSENT for rows in (left, right)]
            yield place((left or right)[0]), words[0], words[1]


def _by_key(key: Callable[[Any], Any], rows: Iterable[Any]) -> dict[Any, list[Any]]:
    out: dict[Any, list[Any]] = {}
    for row in rows:
        out.setdefault(key(row), []).append(row)
    return out


def _span(row: Any) -> str:
    return f"{row.start:#x}-{row.end:#x}"


def _regions(expected: tuple[Region, ...], actual: tuple[Region, ...]) -> Rows:
    """memblock regions, cut at the bounds of both sides, so that one moved bound is one difference and a
    region in two equal parts is none."""
    if expected == actual:
        return
    bounds = sorted({bound for region in (*expected, *actual) for bound in (region.start, region.end)})
    before, after = _cut(expected, bounds), _cut(actual, bounds)
    pending: tuple[int, int, str, str] | None = None
    for start, end in pairwise(bounds):
        left, right = before.get(start, _ABSENT), after.get(start, _ABSENT)
        if left == right:
            continue
        if pending and pending[1:] == (start, left, right):
            pending = (pending[0], end, left, right)
            continue
        if pending:
            yield f"{pending[0]:#x}-{pending[1]:#x}", *pending[2:]
        pending = (start, end, left, right)
    if pending:
        yield f"{pending[0]:#x}-{pending[1]:#x}", *pending[2:]


def _cut(regions: Iterable[Region], bounds: list[int]) -> dict[int, str]:
    """What each piece between two neighbouring bounds is, by its start."""
    index = {bound: i for i, bound in enumerate(bounds)}
    out = {}
    for region in regions:
        words = "no node" if region.nid is None else f"node {region.nid}"
        words = " ".join((words, *sorted(region.flags)))
        for start in bounds[index[region.start] : index[region.end]]:
            out[start] = words
    return out


def _node_data_text(row: NodeData) -> str:
    return f"{_span(row)} on node {row.on_nid}"


def _block_text(row: Block, *, verdict: bool) -> str:
    words = ["no node" if row.nid is None else f"node {row.nid}", f"zone {row.zone or 'none'}"]
    words += [] if row.online else ["left offline"]
    return ", ".join([*words, "removable" if row.removable else "not removable"] if verdict else words)


def _block_rows(expected: Iterable[Block], actual: Iterable[Block]) -> Rows:
    """Memory blocks; `reason` is prose and not compared, and `removable` only where both are certain."""
    before, after = ({(b.start, b.end): b for b in blocks} for blocks in (expected, actual))
    for bounds in sorted(before.keys() | after.keys()):
        sides = before.get(bounds), after.get(bounds)
        verdict = all(side is None or side.certain for side in sides)
        left, right = (_block_text(side, verdict=verdict) if side else _ABSENT for side in sides)
        if left != right:
            yield f"block {bounds[0]:#x}-{bounds[1]:#x}", left, right


_FIELDS: Mapping[str, tuple[str, Callable[[Any, Any], Rows]]] = {
    "numa": ("DIFF-NUMA", _value),
    "numa_reason": ("DIFF-NUMA-REASON", _value),
    "pxm_to_node": ("DIFF-PXM", _common_keys),
    "memory": ("DIFF-MEMORY", _regions),
    "reserved": ("DIFF-RESERVED", _regions),
    "node_data": (
        "DIFF-NODE-DATA",
        partial(_rows, lambda row: row.nid, lambda row: f"node {row.nid}", _node_data_text),
    ),
    "distances": ("DIFF-DISTANCES", _matrix),
    "zone_movable_start": ("DIFF-ZONE-MOVABLE", _movable_start),
    "zones": (
        "DIFF-ZONES",
        partial(_rows, lambda row: (row.nid, row.zone), lambda row: f"node {row.nid} {row.zone}", _span),
    ),
    "blocks": ("DIFF-BLOCKS", _block_rows),
    "panic": ("DIFF-PANIC", _panic),
}
RULE_FIELDS: Mapping[str, str] = {rule: name for name, (rule, _) in _FIELDS.items()}
"""`DIFF-*` rule -> the field it is about."""

_VARIABLE = re.compile(r"(?<==)-\d+|0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")
_IN_FUNCTION = re.compile(r" in \w+$|^\w+: (?=failed to allocate )")
_PREFIX = re.compile(r"^.*?not syncing:\s*")


def message_class(text: str) -> str:
    """`text` without what varies from case to case: addresses and numbers."""
    return " ".join(_VARIABLE.sub("N", text.lower()).split())


def panic_class(text: str) -> str:
    """The panic message without `Kernel panic - not syncing:`, addresses and numbers, in lower case."""
    return message_class(_PREFIX.sub("", text))


def same_panic(one: str, other: str) -> bool:
    """Whether two panic messages are of one class."""
    return _panic_kind(one) == _panic_kind(other)


@lru_cache(maxsize=1024)
def _panic_kind(text: str) -> str:
    # The function is left out: a console names it, and it is inlined or called otherwise in other versions.
    return _IN_FUNCTION.sub("", panic_class(text))


def _observed(name: str, expected: Any, actual: Any) -> bool:
    if name == "panic":
        return True
    if expected is None or actual is None:
        return False
    # A boot prints only some domains: without a common one there is nothing to compare.
    return name != "pxm_to_node" or expected == actual or bool(expected.keys() & actual.keys())


def _too_slow(expected: Outcome, actual: Outcome) -> bool:
    """Time ran out where the kernel is expected to walk a SLIT of 2^31 localities and more."""
    return actual.panic == "hang" and any("localities to go through" in text for text in expected.messages)


def compare(expected: Outcome, actual: Outcome) -> Comparison:
    """Compare field by field.

    A field either side did not observe is NOT_OBSERVED. `pxm_to_node` is compared on the domains both
    observed. `panic` is compared as lived or died and by the class of its text; it is observed unless time
    ran out on a boot that is expected to take minutes.
    """
    verdicts: dict[str, Verdict] = {}
    differences: list[Difference] = []
    for name, (_, rows) in _FIELDS.items():
        before, after = getattr(expected, name), getattr(actual, name)
        if not _observed(name, before, after) or (name == "panic" and _too_slow(expected, actual)):
            verdicts[name] = Verdict.NOT_OBSERVED
            continue
        found = [Difference(name, *row) for row in rows(before, after)]
        verdicts[name] = Verdict.DIFFER if found else Verdict.AGREE
        differences += found
    return Comparison(
        expected=(expected.source, expected.kernel),
        actual=(actual.source, actual.kernel),
        fields=verdicts,
        differences=tuple(differences),
    )


def foretold(booted: Comparison, rows: Comparison) -> Mapping[str, bool]:
    """The fields in which two real kernels differ, in the order of `Outcome`, and whether the model knows.

    Fields that differ between any two kernels, as images and structures differ in size, are left out.

    Args:
        booted: two real kernels on one case.
        rows: their rows of the model on it, in the same order.
    """
    return {
        name: _tells(name, {_said(row) for row in rows.of(name)}, {_said(row) for row in booted.of(name)})
        for name, verdict in booted.fields.items()
        if verdict is Verdict.DIFFER and name not in _SIZED
    }


def _tells(name: str, told: set[Any], seen: set[Any]) -> bool:
    # A boot prints only some domains.
    return seen <= told if name == "pxm_to_node" else seen == told


def _said(row: Difference) -> tuple[str, ...]:
    if row.field == "panic":
        return tuple(_panic_kind(words.removeprefix(_DEAD)) for words in (row.expected, row.actual))
    return row.where, row.expected, row.actual


def unforetold(booted: Comparison, rows: Comparison) -> list[Finding]:
    """The first field in which two kernels differ otherwise than their rows; later ones follow from it.

    Args:
        booted, rows: as for `foretold`.
    """
    first = [name for name, known in foretold(booted, rows).items() if not known][:1]
    return findings(booted, fields=first)


def findings(
    comparison: Comparison, *, severity: Severity | None = None, fields: Collection[str] = tuple(_FIELDS)
) -> list[Finding]:
    """One `DIFF-*` finding for each field that differs; its cause names the sides and the first difference.

    Args:
        severity: instead of the rule's, for example a warning where two kernels may differ.
        fields: no others.
    """
    out = []
    for name, (rule, _) in _FIELDS.items():
        if name not in fields or comparison.fields[name] is not Verdict.DIFFER:
            continue
        rows = comparison.of(name)
        first = " -> ".join((message_class(rows[0].expected), message_class(rows[0].actual)))
        shown, more = rows[:_LISTED], f" and {len(rows) - _LISTED} more" if len(rows) > _LISTED else ""
        out.append(
            finding(
                rule,
                severity=severity,
                where="; ".join(row.where or row.field for row in shown) + more,
                expected=f"{' '.join(comparison.expected)}: " + "; ".join(row.expected for row in shown),
                actual=f"{' '.join(comparison.actual)}: " + "; ".join(row.actual for row in shown),
                cause=f"{comparison.sides}: {first}",
                kernels=tuple(dict.fromkeys((comparison.expected[1], comparison.actual[1]))),
            )
        )
    return out
