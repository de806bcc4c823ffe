"""The errors acpitk raises on purpose. Each is one clear line; the CLI turns them into exit codes."""

from __future__ import annotations


class AcpitkError(Exception):
    """Base of every deliberate error; `exit_code` is what the CLI returns for it."""

    exit_code = 2


class UsageError(AcpitkError):
    """An input or an option that cannot be used: what, where, and what to do instead."""


class DecodeError(AcpitkError):
    """Bytes that are not the table they should be.

    Args:
        message: what is wrong and what was expected.
        path: the field, for example `srat.header.length`.
        offset: byte offset from the start of the table.
    """

    def __init__(self, message: str, *, path: str, offset: int) -> None:
        super().__init__(f"{path} at byte {offset} ({offset:#x}): {message}")
        self.path = path
        self.offset = offset


class EncodeError(AcpitkError):
    """A value that does not fit its field: `path` names the field."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class ToolError(AcpitkError):
    """iasl, QEMU or a kernel is missing, crashed or timed out in a way that leaves no result."""

    exit_code = 3
