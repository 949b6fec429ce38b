"""The house: which layer may import which, no circles, first lines that say what a file is for, and sizes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "boldreams_cli"
# From the top down: each may import what stands below it, and itself; what shares a line is beside each other.
LAYERS = (
    ("cli",),
    ("commands",),
    ("study", "simulation"),
    ("interpret",),
    ("encoding",),
    ("features",),
    ("data",),
    ("stores",),
    ("plots",),
    ("files", "zarr_files", "rooms"),
    ("locks",),
    ("console", "machine", "transfers"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60
LONGER = {  # still to be made simpler
    "boldreams_cli.data.neutral.writing.write": 78,
}
VAGUE = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$|\.)")


def name_of(path: Path) -> str:
    """A file as it is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer(module: str) -> str | None:
    """The layer of a module; None of the package itself, which holds the version."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node: ast.AST, types: bool, lazy: bool) -> Iterator[ast.AST]:
    """What is below a node; `types`: also under TYPE_CHECKING; `lazy`: also within functions."""
    for child in ast.iter_child_nodes(node):
        if (types or not for_types_alone(child)) and (lazy or not isinstance(child, ast.FunctionDef)):
            yield child
            yield from statements(child, types, lazy)


def imported(module: str, types: bool = True, lazy: bool = True) -> set[str]:
    """Modules of the package that a module imports."""
    found: set[str] = set()
    for node in statements(parsed(module), types, lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: imports are written in full"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & FILES.keys()) | {node.module for name in inside if name not in FILES}
    return {name for name in found if name in FILES and name != "boldreams_cli"}


def test_imports_go_down() -> None:
    wrong = []
    for module in FILES:
        own = layer(module)
        for other in imported(module) if own else ():
            theirs = layer(other)
            assert {own, theirs} <= RANK.keys(), f"{own} and {theirs} have a place in LAYERS"
            if own != theirs and RANK[theirs] <= RANK[own]:
                wrong.append(f"{module} imports {other}, which does not stand below it")
    assert not wrong


def test_the_readme_says_the_same_order() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = re.search(r"Imports go one way: ([a-z, ]+)\.", text)
    assert said is not None
    order = [RANK[name] for name in said[1].split(", ")]
    assert order == sorted(order)


def test_no_module_leads_back_to_itself() -> None:
    """Not by what is imported when a module is; imports within functions may look back at their own package's front."""
    graph = {name: imported(name, types=False, lazy=False) - {name} for name in FILES}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in FILES:
        visit(name, ())


def test_first_lines_say_what_files_are_for() -> None:
    for path in [*FILES.values(), *sorted((ROOT / "tests").rglob("*.py"))]:
        text = path.read_text(encoding="utf-8")
        if not text and path.name == "__init__.py":
            continue
        assert text.startswith('"""'), path
        assert len(text.splitlines()[0].removeprefix('"""').split()) >= 3, path
        assert not VAGUE.search(path.stem), f"{path}: a name that says nothing"


def test_files_are_short_and_functions_fit_on_a_screen() -> None:
    long = []
    for module in FILES:
        if (lines := FILES[module].read_text(encoding="utf-8").count("\n")) > MOST_LINES:
            long.append(f"{module}: {lines} lines")
        for node in ast.walk(parsed(module)):
            if not isinstance(node, ast.FunctionDef):
                continue
            name, length = f"{module}.{node.name}", (node.end_lineno or 0) - node.lineno + 1
            if length > LONGER.get(name, MOST_LINES_OF_A_FUNCTION):
                long.append(f"{name}: {length} lines")
    assert not long


def test_nothing_is_pickled_printed_or_caught_bare() -> None:
    for module in FILES:
        for node in ast.walk(parsed(module)):
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{module}: a bare except"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "pickle.load", "pickle.loads"), f"{module}: {called}"
                if called == "torch.load":
                    assert "weights_only=True" in ast.unparse(node), f"{module}: torch.load runs pickled code"
