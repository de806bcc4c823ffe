"""A finding and the file it was found in, for formats that point at files."""

from __future__ import annotations

from dataclasses import dataclass

from acpitk.checks.finding import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A finding with its file.

    Args:
        finding: the finding.
        path: the file as the user named it; None where there is none, for example standard input.
        base: byte of the file at which the finding's table starts. None where the file does not hold the
            bytes themselves, for example acpidump text; `finding.offset` then says nothing about the file.
    """

    finding: Finding
    path: str | None = None
    base: int | None = None

    @property
    def file_offset(self) -> int | None:
        """Byte of the file the finding points at, where that is known."""
        if self.path is None or self.base is None or self.finding.offset is None:
            return None
        return self.base + self.finding.offset
