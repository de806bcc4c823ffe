"""The shipped corpus: readable, bootable, named by content, and in step with the script that writes it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from acpitk import corpus
from acpitk.fuzz.mutators import sealed
from acpitk.tables.slit import decode_slit, encode_slit
from acpitk.tables.srat import decode_srat, encode_srat

CORPUS = Path(__file__).resolve().parents[2] / "corpus"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("corpus_regenerate", CORPUS / "regenerate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_case_is_readable_named_by_content_and_says_where_it_comes_from() -> None:
    found = corpus.load_corpus(CORPUS)
    assert found.problems == ()
    assert found.cases
    for path, stored in found.cases:
        assert path.stem.endswith(corpus.digest(stored.case)[:12]), path.name
        assert stored.provenance, path.name


def test_every_table_survives_the_codec() -> None:
    for path, stored in corpus.load_corpus(CORPUS).cases:
        if (srat := stored.case.table(b"SRAT")) is not None:
            assert encode_srat(decode_srat(srat)) == srat, path.name
        if (slit := stored.case.table(b"SLIT")) is not None:
            assert encode_slit(decode_slit(slit)) == slit, path.name


def test_presets_are_bootable_and_in_step_with_the_script(script: ModuleType) -> None:
    shipped = {path.name: stored for path, stored in corpus.load_corpus(CORPUS).cases}
    readme = (CORPUS / "README.md").read_text()
    for name, stored in script.preset_cases():
        assert shipped[corpus.file_name(stored.case, slug=name)] == stored
        assert sealed(stored.case) == stored.case
        assert f"`{name}`" in readme


@pytest.mark.qemu
def test_qemu_gives_tables_that_cover_the_guest(script: ModuleType, qemu_path: Path) -> None:
    found = dict(script.qemu_cases())
    assert set(found) == {guest.name for guest in script.GUESTS}
    for name, stored in found.items():
        srat = decode_srat(stored.case.table(b"SRAT") or b"")
        enabled = sum(m.length for m in srat.memory_affinities() if m.flags == 1)
        assert abs(enabled - stored.case.machine.memory) <= 384 * 1024, name
