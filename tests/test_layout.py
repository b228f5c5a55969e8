"""The layout of the project: which room may import which, no circles, three modules at the top."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import modes

ROOT = Path(__file__).parent.parent
TOP_MODULES = {"main.py", "train.py", "input_pipeline.py"}
# The rooms from the top floor down. `resnet` is the library and stands alone.
FLOORS = (
    "main",
    "modes",
    "web",
    "train",
    "evaluation",
    "input_pipeline",
    "training",
    "workdir",
    "datasets",
    "devices",
    "configs",
    "resnet",
)
MAY_IMPORT = {
    # These three may import all rooms below them.
    **{room: set(FLOORS[FLOORS.index(room) + 1 :]) for room in ("modes", "train", "evaluation")},
    "web": {"resnet"},
    "main": {"modes", "devices", "workdir", "resnet"},
    "input_pipeline": {"datasets", "training", "devices", "resnet"},
    "training": {"workdir", "datasets", "devices", "configs", "resnet"},
    "workdir": {"configs", "resnet"},
    "datasets": {"resnet"},
    "devices": {"resnet"},
    "configs": {"resnet"},
    "resnet": set(),
}
MAY_IMPORT_ANYTHING = {"benchmarks", "tests"}
NOT_IN_THE_LIBRARY = {"ml_collections", "absl", "optax", "tqdm"}


def source_files(root: Path) -> list[Path]:
    """Returns the Python files of all rooms below `root`."""
    files = [*root.glob("*.py")]
    for folder in root.iterdir():
        if (
            folder.is_dir()
            and not folder.name.startswith((".", "__"))
            and folder.name not in ("runs", "data")
        ):
            files += folder.rglob("*.py")
    return sorted(file for file in files if "__pycache__" not in file.parts)


def room_of(file: Path, root: Path) -> str:
    return file.relative_to(root).parts[0].removesuffix(".py")


def imported_modules(file: Path) -> set[str]:
    """Returns the dotted names of all modules that `file` imports, inside functions too."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def forbidden_imports(root: Path) -> list[str]:
    """Returns a line for every import of a room that the importing room may not import."""
    lines = []
    for file in source_files(root):
        room = room_of(file, root)
        if room in MAY_IMPORT_ANYTHING:
            continue
        if room not in MAY_IMPORT:
            lines.append(f"{file.relative_to(root)}: {room} is no room of the house")
            continue
        rooms = {module.partition(".")[0] for module in imported_modules(file)} & MAY_IMPORT.keys()
        forbidden = rooms - MAY_IMPORT[room] - {room}
        lines += [f"{file.relative_to(root)}: {room} may not import {other}" for other in sorted(forbidden)]
    return lines


def import_circle(root: Path) -> list[str]:
    """Returns the modules of a circle of imports at module level, empty if there is none."""
    modules = {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in source_files(root)
        if room_of(file, root) in MAY_IMPORT
    }
    graph = {name: top_level_imports(file) & modules.keys() - {name} for name, file in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def top_level_imports(file: Path) -> set[str]:
    """Returns the modules that are imported when `file` is: not inside functions, not for types alone."""
    modules = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def test_no_room_imports_what_it_may_not() -> None:
    assert forbidden_imports(ROOT) == []


def test_no_imports_form_a_circle() -> None:
    assert import_circle(ROOT) == []


def test_three_modules_stand_at_the_top() -> None:
    assert {file.name for file in ROOT.glob("*.py")} == TOP_MODULES


def test_every_module_of_modes_is_a_mode_or_shared() -> None:
    names = {file.stem for file in (ROOT / "modes").glob("*.py")}
    assert names == {*modes.NAMES, "__init__", "flags", "programs", "tables"}


def test_the_library_knows_no_package_of_the_research_code() -> None:
    for file in (ROOT / "resnet").rglob("*.py"):
        packages = {module.partition(".")[0] for module in imported_modules(file)}
        assert not packages & NOT_IN_THE_LIBRARY, file


def test_rooms_import_downwards_alone() -> None:
    assert MAY_IMPORT.keys() == set(FLOORS)
    for floor, room in enumerate(FLOORS):
        assert MAY_IMPORT[room] <= set(FLOORS[floor + 1 :])


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("workdir/metrics.py", "import train", "workdir/metrics.py: workdir may not import train"),
        (
            "resnet/model.py",
            "    from configs import rules",
            "resnet/model.py: resnet may not import configs",
        ),
        ("datasets/signs.py", "import devices.mesh", "datasets/signs.py: datasets may not import devices"),
        ("report/page.py", "import resnet", "report/page.py: report is no room of the house"),
    ],
)
def test_an_import_upwards_is_noticed(tmp_path: Path, file: str, line: str, expected: str) -> None:
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(f"def f() -> None:\n{line}\n" if line.startswith(" ") else f"{line}\n")
    assert forbidden_imports(tmp_path) == [expected]


def test_a_circle_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "resnet").mkdir()
    (tmp_path / "resnet" / "a.py").write_text("from resnet.b import x\n")
    (tmp_path / "resnet" / "b.py").write_text("import resnet.a\n")
    assert set(import_circle(tmp_path)) == {"resnet.a", "resnet.b"}
