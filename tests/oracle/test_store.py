"""Builds: what is missing is said in one line, and a build of another acpitk is not used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acpitk.cli import run
from acpitk.errors import ToolError, UsageError
from acpitk.oracle.build import Tree, check_tree
from acpitk.oracle.store import build_tree, find_oracle, list_oracles


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACPITK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tree(root: Path) -> Path:
    for name in ("arch/x86/kernel/setup.c", "mm/memblock.c", "drivers/acpi/numa/srat.c"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_a_directory_that_is_no_kernel_tree(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"is not a Linux source tree: it has no arch/x86/kernel/setup\.c"):
        check_tree(Tree(source=tmp_path, headers=()))


def test_a_tree_that_is_not_configured(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"no configured headers .*x86_64_defconfig prepare"):
        check_tree(Tree(source=tree(tmp_path), headers=()))


def test_a_tree_with_a_config_and_nothing_generated(tmp_path: Path) -> None:
    (tree(tmp_path) / ".config").touch()
    with pytest.raises(ToolError, match=r"no generated headers: run: make -C .* prepare"):
        check_tree(Tree(source=tmp_path, headers=()))


def prepared(root: Path, *options: str) -> Path:
    """What `make prepare` leaves in a tree or an output directory."""
    for name in ("asm", "uapi/asm"):
        (root / "arch/x86/include/generated" / name).mkdir(parents=True)
    (root / "include/generated").mkdir(parents=True)
    for name in ("bounds.h", "asm-offsets.h", "utsrelease.h"):
        (root / "include/generated" / name).touch()
    lines = "".join(f"#define CONFIG_{name} 1\n" for name in options)
    (root / "include/generated/autoconf.h").write_text(lines)
    (root / ".config").touch()
    return root


OPTIONS = ("X86_64", "NUMA", "ACPI_NUMA", "SPARSEMEM_VMEMMAP")


def test_headers_may_lie_elsewhere_or_in_the_tree(tmp_path: Path) -> None:
    headers = prepared(tmp_path / "headers", *OPTIONS)
    source = tree(tmp_path / "source")
    assert check_tree(Tree(source=source, headers=(headers,))) == headers
    assert check_tree(Tree(source=prepared(source, *OPTIONS), headers=())) == source


@pytest.mark.parametrize("name", ["include/generated/utsrelease.h", "arch/x86/include/generated/uapi/asm"])
def test_a_tree_that_is_half_prepared(tmp_path: Path, name: str) -> None:
    missing = prepared(tree(tmp_path), *OPTIONS) / name
    missing.rename(tmp_path / "away")
    with pytest.raises(ToolError, match=f"no {name}: run: make -C .* prepare"):
        build_tree(tmp_path, (), "mine", progress=print)


def test_a_tree_without_numa(tmp_path: Path) -> None:
    prepared(tree(tmp_path), "X86_64", "SPARSEMEM_VMEMMAP")
    with pytest.raises(ToolError, match="is configured without CONFIG_NUMA, CONFIG_ACPI_NUMA"):
        build_tree(tmp_path, (), "mine", progress=print)


def test_an_oracle_that_is_not_built(cache: Path) -> None:
    with pytest.raises(ToolError, match=r"oracle v6\.1 is not built: run: acpitk oracle build v6\.1"):
        find_oracle("v6.1")
    with pytest.raises(UsageError):
        find_oracle("../v6.1")
    assert list_oracles() == ()


def test_a_build_of_another_version_is_not_used(cache: Path) -> None:
    place = cache / "oracles" / "v6.1"
    place.mkdir(parents=True)
    meta = {"release": "6.1.0", "row": "v6.1", "gated": 5, "shim": "0" * 64, "sha256": ""}
    (place / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ToolError, match="was built by another version of acpitk"):
        find_oracle("v6.1")


@pytest.mark.parametrize(
    "arguments",
    [["oracle", "build"], ["oracle", "build", "v6.1", "--name", "x"], ["oracle", "build", "v1.0"]],
)
def test_unusable_arguments(arguments: list[str], cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["oracle", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_oracle_for_fuzz_that_is_missing(cache: Path, tmp_path: Path) -> None:
    assert run(["fuzz", "--oracle", "v6.1", "--iterations", "1", "--out", str(tmp_path / "out")]) == 3
    assert run(["oracle", "list"]) == 0
