"""What a check says: one finding, with its place, expectation, observation and mechanism."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How bad it is for whoever ships the table; ordered by `rank`."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """0 is worst."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding.

    Args:
        id: catalogue ID, stable and append-only, for example `POL-KERNEL-NODE`.
        severity: see `Severity`.
        where: the place in words: table and entry, range or node.
        offset: byte offset in the table, where there is one.
        expected: what firmware promised or the specification asks for.
        actual: what is there, or what the kernel does.
        advice: what to do about it.
        mechanism: kernel function, file and version, or the ACPI section.
        cause: the part of the signature beside `id` that tells causes apart; free of addresses and sizes.
        kernels: kernels shown to be affected.
    """

    id: str
    severity: Severity
    where: str
    expected: str
    actual: str
    offset: int | None = None
    advice: str = ""
    mechanism: str = ""
    cause: str = ""
    kernels: tuple[str, ...] = ()

    @property
    def signature(self) -> str:
        """Stable name of the cause: `ID` or `ID:cause`."""
        return f"{self.id}:{self.cause}" if self.cause else self.id

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form; empty fields are absent."""
        out: dict[str, Any] = {"id": self.id, "signature": self.signature, "severity": self.severity.value}
        out |= {"where": self.where, "expected": self.expected, "actual": self.actual}
        if self.offset is not None:
            out["offset"] = self.offset
        for name in ("advice", "mechanism"):
            if value := getattr(self, name):
                out[name] = value
        if self.kernels:
            out["kernels"] = list(self.kernels)
        return out
