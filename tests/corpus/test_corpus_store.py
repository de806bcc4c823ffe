"""Laws of the corpus store: what is saved is loaded, a bad file is one line, a name is never a path."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk import corpus
from acpitk.checks.finding import Finding, Severity
from acpitk.corpus import StoredCase
from acpitk.errors import UsageError
from acpitk.machine import Q35, Case, Machine
from acpitk.ranges import MIB

CASE = Case(machine=Q35(512 * MIB), tables=(b"SRAT" + bytes(44),), cmdline="movable_node")

stored_cases = st.builds(
    StoredCase,
    case=st.builds(
        Case,
        machine=st.builds(Q35, st.integers(512, 4096).map(lambda m: m * MIB)),
        tables=st.lists(st.binary(max_size=80), max_size=3).map(tuple),
        cmdline=st.text(),
    ),
    provenance=st.text(),
    findings=st.lists(st.text()).map(tuple),
    kernel=st.none() | st.text(),
)


@given(stored_cases, st.text())
def test_what_is_saved_is_loaded_from_inside_the_directory(stored: StoredCase, slug: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = corpus.save(Path(name), stored, slug=slug)
        assert path.parent == Path(name)
        assert corpus.load(path) == stored
        assert corpus.load_corpus(Path(name)).cases == ((path, stored),)
        assert os.listdir(name) == [path.name]


@given(st.text())
def test_a_name_is_a_plain_file_name(slug: str) -> None:
    name = corpus.file_name(CASE, slug=slug)
    assert name == os.path.basename(name)
    assert not name.startswith(("-", "."))
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    assert len(name) < 100


def test_a_finding_survives(tmp_path: Path) -> None:
    finding = Finding(
        id="POL-X", severity=Severity.ERROR, where="node 1", expected="a", actual="b", cause="image"
    )
    stored = StoredCase(case=CASE, finding=finding.to_json(), findings=(finding.signature,), kernel="v6.1")
    loaded = corpus.load(corpus.save(tmp_path, stored, slug=finding.id))
    assert loaded.finding == finding.to_json()
    assert loaded.kernel == "v6.1"


def test_a_bare_case_is_a_case(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(CASE.to_json()))
    assert corpus.load_case(path) == CASE


def test_an_explicit_machine_survives(tmp_path: Path) -> None:
    case = Case(machine=Q35(1024 * MIB).resolve(()), tables=())
    loaded = corpus.load_case(corpus.save(tmp_path, StoredCase(case=case)))
    assert isinstance(loaded.machine, Machine)
    assert isinstance(case.machine, Machine)
    assert loaded.machine.e820 == case.machine.e820


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected a JSON object"),
        (b"{}", "machine"),
        (b'{"case":{}, "schema":2}', "schema 2"),
        (b'{"case":[]}', "case"),
        (b'{"case":{"machine":{"q35":{"memory":"1G"}}}}', "memory"),
    ],
)
def test_a_bad_file_is_one_line_and_hides_no_other(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    good = corpus.save(tmp_path, StoredCase(case=CASE))
    found = corpus.load_corpus(tmp_path)
    assert [path for path, _ in found.cases] == [good]
    (problem,) = found.problems
    assert "bad.json" in problem
    assert says in problem
    assert "\n" not in problem


def test_a_file_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(corpus.MAX_BYTES + 1)
    with pytest.raises(UsageError, match="larger than"):
        corpus.load(path)


def test_an_unusable_directory_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write the corpus"):
        corpus.save(tmp_path / "file", StoredCase(case=CASE))
    with pytest.raises(UsageError, match="cannot read the corpus"):
        corpus.load_corpus(tmp_path / "absent")


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = corpus.save(tmp_path, StoredCase(case=CASE, provenance="old"))

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UsageError, match="No space left"):
        corpus.save(tmp_path, StoredCase(case=CASE, provenance="new"))
    assert corpus.load(path).provenance == "old"
    assert os.listdir(tmp_path) == [path.name]
