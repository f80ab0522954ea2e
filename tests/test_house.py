"""The direction of imports, also of those inside functions: nothing upward, and no circles."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
APPLICATION = "mona_peft.finetuning"

#: From the bottom to the top; the parts of a floor may import each other, as long as there is no circle.
FLOORS = (
    {
        "settings",
        "sections",
        "arguments",
        "command_line",
        "recipe_files",
        "environment",
        "files",
        "markdown",
        "recipes",
        "validation",
        "model_card",
    },
    {"metrics"},
    {"models"},
    {"data", "methods", "repository", "pushing"},
    {"training", "pictures"},
    {"tasks", "inference", "serving", "exporting", "checking", "app"},
    {"costs"},
    {"study"},
    {"commands"},
)
#: Where the library opens the application, when it is asked to: `mona_peft.load`, and the command.
DOORS = {"mona_peft", "mona_peft.__main__"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in SOURCE.rglob("*.py")}


def imports(name: str, path: Path) -> Iterator[str]:
    """The package's modules that a file imports anywhere."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            targets = [f"{source}.{alias.name}" for alias in node.names]
            targets = [target if target in FILES else source for target in targets]
        else:
            continue
        yield from (target for target in targets if target in FILES)


IMPORTS = {
    name: {
        target
        for target in imports(name, path)
        if target != name and not (name in DOORS and target.startswith(f"{APPLICATION}."))
    }
    for name, path in FILES.items()
}


def floor(name: str) -> int:
    """The floor a module is on: 0 for the library, from 1 on for the application."""
    if not name.startswith(f"{APPLICATION}."):
        return 0
    part = name.split(".")[2]
    found = [number for number, parts in enumerate(FLOORS, 1) if part in parts]
    assert found, f"{name} is on no floor: name {part} in FLOORS"
    return found[0]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of the graph, or nothing."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in done:
            for target in sorted(graph.get(node, ())):
                if found := visit(target, [*path, node]):
                    return found
            done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def test_nothing_is_imported_from_a_floor_above():
    pairs = [(name, target) for name, targets in IMPORTS.items() for target in targets]
    assert [pair for pair in pairs if floor(pair[1]) > floor(pair[0])] == []


def test_the_library_names_the_application_at_its_doors_alone():
    naming = {name for name, path in FILES.items() if floor(name) == 0 and ".finetuning" in path.read_text()}
    assert naming <= DOORS


def from_imports(path: Path) -> Iterator[tuple[bool, str]]:
    """Of every `from ... import` of the package's modules in a file: whether it is relative, and the module."""
    folder = ".".join(path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            source = folder if node.level and not node.module else f"{folder}." * node.level + (node.module or "")
            names = [f"{folder}.{alias.name}" for alias in node.names] if source == folder else [source]
            yield from ((node.level > 0, name) for name in names if name in FILES)


def test_imports_are_relative_inside_a_folder_and_absolute_across():
    wrong = [
        (name, target)
        for name, path in FILES.items()
        for relative, target in from_imports(path)
        if relative is not (FILES[target].parent == path.parent)
    ]
    assert wrong == []


def test_modules_import_each_other_in_no_circle():
    assert circle(IMPORTS) == []


@pytest.mark.parametrize("package", sorted({name.rpartition(".")[0] for name in FILES} - {""}))
def test_the_parts_of_a_package_import_each_other_in_no_circle(package):
    depth = package.count(".") + 2
    graph: dict[str, set[str]] = {}
    for name, targets in IMPORTS.items():
        if name.startswith(f"{package}."):
            part = ".".join(name.split(".")[:depth])
            inside = {".".join(target.split(".")[:depth]) for target in targets if target.startswith(f"{package}.")}
            graph.setdefault(part, set()).update(inside - {part})
    assert circle(graph) == []


def test_nothing_in_the_package_imports_scripts_or_tests():
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").split(".")[0] not in ("scripts", "tests"), name


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_the_page_on_the_design_names_what_there_is():
    library, page = SOURCE / "mona_peft", (ROOT / "docs" / "design.md").read_text()
    named = re.findall(r"`([\w/.]+\.py)`", page)
    homes = (library, library / "finetuning", ROOT)
    missing = [name for name in named if not any((home / name).is_file() for home in homes)]
    assert len(named) > 30 and missing == []
