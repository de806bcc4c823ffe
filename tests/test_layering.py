"""The module map, enforced: who may import whom, walked from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "acpitk"

_BASE = ("errors", "ranges")
_VALUES = (*_BASE, "tables", "machine", "outcome")
ALLOWED: dict[str, tuple[str, ...]] = {
    "ranges": (),
    "errors": (),
    "outcome": ("ranges",),
    "tables": _BASE,
    "topology": (*_BASE, "tables"),
    "machine": (*_BASE, "tables"),
    "vmlinux": _BASE,
    "kernel": (*_VALUES, "vmlinux"),
    "klog": (*_BASE, "machine", "outcome"),
    "crashes": ("klog",),
    "checks": (*_VALUES, "kernel", "klog", "crashes"),
    "fuzz": (*_VALUES, "kernel", "checks"),
    "iasl": (*_BASE, "tables", "checks"),
    "qemu": (*_VALUES, "klog", "vmlinux"),
    "images": (*_VALUES, "kernel", "qemu"),
    "oracle": (*_VALUES, "kernel", "klog", "checks", "qemu"),
    "corpus": (*_VALUES, "checks"),
    "report": (*_VALUES, "kernel", "checks", "crashes"),
    "cli": (
        *_VALUES,
        "images",
        "topology",
        "kernel",
        "klog",
        "crashes",
        "checks",
        "fuzz",
        "iasl",
        "oracle",
        "qemu",
        "corpus",
        "report",
    ),
    "__main__": ("cli",),
    "api": (*_VALUES, "topology", "kernel", "checks", "qemu"),
    "pytest_plugin": ("errors", "api", "iasl", "qemu"),
    "__init__": ("api",),
}
"""Top-level module -> the others it may import; within itself each may import freely."""

ONLY_IN = {
    "construct": ("tables",),
    "hypothesis": ("fuzz",),
    "subprocess": ("iasl", "oracle", "qemu"),
    "click": ("cli",),
    "rich": ("cli", "report"),
    "jinja2": ("report",),
    "yaml": ("cli",),
    "pytest": ("pytest_plugin",),
}
PURE = (
    "ranges",
    "errors",
    "vmlinux",
    "tables",
    "topology",
    "machine",
    "outcome",
    "kernel",
    "klog",
    "crashes",
    "checks",
    "report",
)
PURE_EXCEPT = {"tables/dump.py"}
EFFECTS = {
    "os",
    "sys",
    "shutil",
    "socket",
    "pathlib",
    "io",
    "tempfile",
    "time",
    "urllib",
    "asyncio",
    "threading",
}
MODULES = sorted(PACKAGE.rglob("*.py"), key=str)


def _layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """Dotted names imported anywhere in the file, also inside functions and TYPE_CHECKING blocks."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            if node.module == "acpitk":
                yield from (f"acpitk.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    layer = _layer(path)
    assert layer in ALLOWED, f"{layer}: add it to the module map with what it may import"
    used = {name.split(".")[1] for name in _imports(path) if name.startswith("acpitk.")} & ALLOWED.keys()
    assert used <= {layer, *ALLOWED[layer]}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_dependency_stays_in_its_place(path: Path) -> None:
    layer = _layer(path)
    misplaced = {
        root for name in _imports(path) if layer not in ONLY_IN.get(root := name.split(".")[0], (layer,))
    }
    assert not misplaced


@pytest.mark.parametrize(
    "path", [p for p in MODULES if _layer(p) in PURE], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_pure_modules_have_no_effects(path: Path) -> None:
    if str(path.relative_to(PACKAGE)) in PURE_EXCEPT:
        return
    assert not {name.split(".")[0] for name in _imports(path)} & EFFECTS
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input"}


def test_every_layer_of_the_map_exists() -> None:
    assert {_layer(path) for path in MODULES} == ALLOWED.keys()
