"""The house of design.md: who may import whom, read from the sources."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGES = {"offline_tracker": ROOT / "offline_tracker", "offline_tracker_cli": ROOT / "cli"}

ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "curve": {"errors"},
    "values": {"errors"},
    "eta": {"errors"},
    "rank": {"errors"},
    "migrations": {"errors"},
    "host": {"errors"},
    "compat": {"errors"},
    "filesystem": {"errors"},
    "device": {"errors"},
    "alerts": {"curve", "values", "errors"},
    "findings": {"alerts", "curve", "errors"},
    "sampling": {"host", "errors"},
    "console": {"errors"},
    "probe": {"filesystem", "host", "errors"},
    "doctor": {"store", "journal", "errors"},
    "journal": {"values", "errors"},
    "segments": {"journal", "host", "errors"},
    "store": {"segments", "journal", "migrations", "values", "host", "errors"},
    "columns": {"store", "curve", "values", "errors"},
    "parquet": {"columns", "store", "values", "errors"},
    "query": {"parquet", "columns", "store", "values", "errors"},
    "opened": {"columns", "store", "values", "errors"},
    "segment_store": {"store", "segments", "journal", "host", "errors"},
    "writer": {"store", "journal", "device", "values", "host", "errors"},
    "requeue": {"store", "host", "errors"},
    "run": {"writer", "requeue", "store", "journal", "device", "values", "rank", "eta", "compat", "console", "errors"},
    "opening": {
        *("run", "writer", "requeue", "store", "segment_store", "journal", "values", "rank", "curve", "host"),
        *("filesystem", "compat", "sampling", "console", "errors"),
    },
    "session": {"opening", "run", "errors"},
    "": {"session", "run", "opened", "eta", "compat", "errors"},  # the package itself
    "integrations": {"", "session", "run", "errors"},
    "sync": {"sync.engine", "sync.verify", "sync.watching", "errors"},
    "sync.watching": {"sync.engine", "sync.ledger", "sync.remotes", "store", "errors"},
    "sync.migrations": {"errors"},
    "sync.ledger": {"sync.migrations", "store", "host", "errors"},
    "sync.remotes": {"curve", "values", "errors"},
    "sync.compare": {"sync.remotes", "curve", "errors"},
    "sync.links": {"sync.ledger", "sync.remotes", "store", "host", "errors"},
    "sync.verify": {"sync.compare", "sync.ledger", "sync.remotes", "store", "curve", "host", "values", "errors"},
    "sync.besides": {"sync.remotes", "store", "console", "findings", "alerts", "curve", "values", "errors"},
    "sync.engine": {
        "sync.besides",
        "sync.compare",
        "sync.ledger",
        "sync.remotes",
        "store",
        "curve",
        "host",
        "values",
        "errors",
    },
}
"""Of each module of the library, what it may import of ours; a package that is not named here has its parent's arrows."""

CLI_ARROWS = {"", "sync", "sync.engine", "sync.remotes", "sync.ledger", "sync.verify", "sync.links", "store"}
CLI_ARROWS |= {
    "segment_store",
    "columns",
    "parquet",
    "query",
    "alerts",
    "findings",
    "curve",
    "values",
    "eta",
    "doctor",
    "probe",
}
CLI_ARROWS |= {"sync.watching", "filesystem", "errors"}
"""What the command line may use of the library; never what training holds."""


def sources() -> dict[str, Path]:
    """Every module, by its full name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SOURCES = sources()


def imports(module: str) -> set[str]:
    """The modules of ours that *module* imports, function-level imports and those for type checkers too."""
    tree = ast.parse(SOURCES[module].read_text(), str(SOURCES[module]))
    package = module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(name, package) if node.level else name
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in SOURCES else base)
    return {name for name in found if name.split(".")[0] in PACKAGES} - {module}


def local(module: str) -> str:
    """The name of a library module behind ``offline_tracker.``."""
    return module.partition(".")[2]


def allowed(module: str) -> set[str]:
    name = local(module)
    if name.startswith("sync.remotes."):  # a remote: what all of them know, and parts of its own
        near = {local(other) for other in SOURCES if local(other).startswith("sync.remotes.")}
        return ARROWS["sync.remotes"] | {"sync.remotes"} | {other for other in near if other.startswith(name + "_")}
    while name not in ARROWS and "." in name:
        name = name.rpartition(".")[0]
    return ARROWS[name]


@pytest.mark.parametrize("module", sorted(name for name in SOURCES if name.split(".")[0] == "offline_tracker"))
def test_a_module_imports_only_what_its_arrows_point_at(module: str) -> None:
    assert module == "offline_tracker" or local(module).split(".")[0] in ARROWS, f"{module} has no place in the house"
    wanted = allowed(module)
    if module == "offline_tracker.sync.remotes":  # its factory may load the remotes, inside a function
        wanted = wanted | {local(other) for other in SOURCES if other.startswith(module + ".")}
    assert {local(name) for name in imports(module)} <= wanted


@pytest.mark.parametrize("module", sorted(name for name in SOURCES if name.split(".")[0] == "offline_tracker_cli"))
def test_the_command_line_uses_the_library_and_never_what_training_holds(module: str) -> None:
    ours = {name for name in imports(module) if name.split(".")[0] == "offline_tracker"}
    assert {local(name) for name in ours} <= CLI_ARROWS


def test_the_library_never_imports_the_command_line() -> None:
    using = {name for name in SOURCES if any(other.startswith("offline_tracker_cli") for other in imports(name))}
    assert {name for name in using if not name.startswith("offline_tracker_cli")} == set()


def test_there_is_no_circle() -> None:
    def module_level(module: str) -> set[str]:
        # A remote's factory is above the remotes, which know only its types: the one import that waits for a call.
        found = imports(module)
        return {x for x in found if not (module == "offline_tracker.sync.remotes" and x.startswith(module + "."))}

    left = {name: module_level(name) & SOURCES.keys() for name in SOURCES}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"a circle among {sorted(left)}"


def test_a_remote_is_imported_only_where_one_is_made() -> None:
    tree = ast.parse(SOURCES["offline_tracker.sync.remotes"].read_text())
    remotes = {name.rpartition(".")[2] for name in SOURCES if name.startswith("offline_tracker.sync.remotes.")}
    top = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert not top & remotes


def test_the_list_of_packages_is_the_folders_that_are_there() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {name for name, path in SOURCES.items() if path.name == "__init__.py"}
    assert sorted(listed) == sorted(there)


def test_files_that_are_no_sources_are_in_the_wheel_too() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package, folder in PACKAGES.items():
        data = {path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
        assert {path for pattern in patterns[package] for path in folder.glob(pattern)} == data


def test_every_folder_with_sources_is_a_package() -> None:
    assert {path.parent for path in SOURCES.values()} == {
        path.parent for path in SOURCES.values() if path.name == "__init__.py"
    }


def test_all_sql_about_runs_is_in_the_store() -> None:
    using = {name for name in SOURCES if "sqlite3" in SOURCES[name].read_text()}
    of_the_library = {local(name) for name in using if name.startswith("offline_tracker.")}
    assert {name for name in of_the_library if not name.startswith("sync")} <= {"store", "migrations"}


def test_the_library_never_prints() -> None:
    for name, path in SOURCES.items():
        # The uploader is a program of its own, whose answers are what it prints.
        if name.split(".")[0] == "offline_tracker" and not name.endswith("wandb_uploader"):
            calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], name
