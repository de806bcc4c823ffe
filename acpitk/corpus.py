"""A crash-safe directory of cases, one JSON file each, named by content.

A file is `<slug>-<first 12 hex digits of the SHA-256 of the canonical case>.json` and holds
`{"schema":1,"case":{...},"provenance":"...","findings":["signature"...],"finding":{...},"kernel":"v6.1"}`;
only `case` is required. A file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acpitk.errors import UsageError
from acpitk.machine import Case, case_from_json

SCHEMA = 1
MAX_BYTES = 16 << 20
"""A larger file is refused; the largest case of the 64 KiB tables QEMU takes stays far below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCase:
    """A case and what is known of it.

    Args:
        case: the case itself.
        provenance: where it comes from, in words.
        findings: signatures the case is known to give.
        finding: the finding it was stored for, as `Finding.to_json` writes it.
        kernel: the kernel row the finding was made with, for example `v6.1`.
    """

    case: Case
    provenance: str = ""
    findings: tuple[str, ...] = ()
    finding: Mapping[str, Any] | None = None
    kernel: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form; empty fields are absent."""
        out: dict[str, Any] = {"schema": SCHEMA, "case": self.case.to_json()}
        if self.provenance:
            out["provenance"] = self.provenance
        if self.findings:
            out["findings"] = list(self.findings)
        if self.finding is not None:
            out["finding"] = dict(self.finding)
        if self.kernel is not None:
            out["kernel"] = self.kernel
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What a directory holds: the readable cases by path, and one line for each file that is not one."""

    cases: tuple[tuple[Path, StoredCase], ...]
    problems: tuple[str, ...]


def digest(case: Case) -> str:
    """SHA-256 of the case's canonical JSON, in hex: equal exactly for equal cases."""
    canonical = json.dumps(case.to_json(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_name(case: Case, *, slug: str) -> str:
    """The name a case is stored under; of `slug` only lower-case letters, digits and dashes survive."""
    safe = re.sub(r"[^a-z0-9]+", "-", slug.lower()).strip("-")[:60] or "case"
    return f"{safe}-{digest(case)[:12]}.json"


def save(directory: Path, stored: StoredCase, *, slug: str = "case") -> Path:
    """Write one case, replacing an older file of the same name; a crash leaves the old file or the new.

    Args:
        directory: made where it is missing.
        stored: what to write.
        slug: how the name begins, best a finding ID.

    Raises:
        UsageError: the directory cannot be made or written.
    """
    path = directory / file_name(stored.case, slug=slug)
    text = json.dumps(stored.to_json(), indent=1, sort_keys=True) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write_whole(path, text.encode())
    except OSError as error:
        raise UsageError(
            f"{directory}: cannot write the corpus there: {error.strerror}; choose a writable directory"
        ) from None
    return path


def _write_whole(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load(path: Path) -> StoredCase:
    """Read a stored case, or a bare case document.

    Raises:
        UsageError: the file cannot be read, or the field that is wrong in it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot read: {error.strerror}") from None
    return parse(data, source=str(path))


def parse(data: bytes, *, source: str) -> StoredCase:
    """Read the bytes of a stored case, or of a bare case document.

    Raises:
        UsageError: naming `source`, and the field that is wrong in it.
    """
    document = _document(data, source)
    if "case" not in document:
        return StoredCase(case=case_from_json(document, source=source))
    if document.get("schema", SCHEMA) != SCHEMA:
        raise UsageError(
            f"{source}: schema {document['schema']!r} is not {SCHEMA}: written by a newer acpitk?"
        )
    findings, finding = document.get("findings", []), document.get("finding")
    if not isinstance(findings, list) or not all(isinstance(name, str) for name in findings):
        raise UsageError(f"{source}: findings: expected an array of signatures")
    if finding is not None and not isinstance(finding, dict):
        raise UsageError(f"{source}: finding: expected a JSON object")
    return StoredCase(
        case=case_from_json(document["case"], source=f"{source}: case"),
        provenance=_text(document, "provenance", source) or "",
        findings=tuple(findings),
        finding=finding,
        kernel=_text(document, "kernel", source),
    )


def load_case(path: Path) -> Case:
    """Read just the case of a stored case or of a bare case document.

    Raises:
        UsageError: as `load`.
    """
    return load(path).case


def load_corpus(directory: Path) -> Corpus:
    """Read every `*.json` in a directory, in name order; bad files are reported, not raised.

    Raises:
        UsageError: the directory itself cannot be read.
    """
    try:
        paths = sorted(p for p in directory.iterdir() if p.suffix == ".json" and p.is_file())
    except OSError as error:
        raise UsageError(f"{directory}: cannot read the corpus: {error.strerror}") from None
    cases, problems = [], []
    for path in paths:
        try:
            cases.append((path, load(path)))
        except UsageError as error:
            problems.append(" ".join(str(error).splitlines()))
    return Corpus(cases=tuple(cases), problems=tuple(problems))


def _document(data: bytes, source: str) -> Mapping[str, Any]:
    if len(data) > MAX_BYTES:
        raise UsageError(f"{source}: larger than {MAX_BYTES >> 20} MiB: not a case")
    try:
        document = json.loads(data)
    except json.JSONDecodeError as error:
        raise UsageError(f"{source}: line {error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{source}: not a case document: expected a JSON object")
    return document


def _text(document: Mapping[str, Any], name: str, source: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{source}: {name}: not a string")
    return value
