"""Imports run one way, heavy libraries are imported late, files are small, and nothing is pickled."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

import bilstm_attention

PACKAGE = Path(bilstm_attention.__file__).parent
NAME = "bilstm_attention"
# Each may import those before it, and its neighbours.
ORDER = (
    {"errors", "paths", "console", "yaml_files", "config"},
    *({name} for name in ("data", "model", "evaluation", "training", "reports", "tracking", "search", "serving")),
    {"stages"},
    {"cli"},
)
HEAVY = ("tensorflow", "keras", "mlflow")
TREES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in PACKAGE.rglob("*.py")
}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rank(module: str) -> int:
    return next(number for number, names in enumerate(ORDER) if module.partition(".")[0] in names)


@cache
def own_imports(module: str) -> list[str]:
    return [name.removeprefix(f"{NAME}.") for name in imports(TREES[module]) if name.startswith(f"{NAME}.")]


@pytest.mark.parametrize("module", sorted(name for name in TREES if not name.endswith("__init__")))
def test_imports_run_one_way(module):
    assert [name for name in own_imports(module) if rank(name) > rank(module)] == []


def test_no_two_modules_import_each_other():
    def reached(module, seen):
        parts = {name if name in TREES else name.rpartition(".")[0] for name in own_imports(module)} & set(TREES)
        for part in parts - seen:
            seen = reached(part, seen | {part})
        return seen

    assert [module for module in TREES if module in reached(module, frozenset())] == []


@pytest.mark.parametrize(
    ("library", "packages"), [("mlflow", {"tracking", "serving"}), ("optuna", {"search", "reports"})]
)
def test_library_stays_in_its_packages(library, packages):
    users = {module for module, tree in TREES.items() if library in {name.partition(".")[0] for name in imports(tree)}}
    assert {module.partition(".")[0] for module in users} <= packages


@pytest.mark.parametrize("module", sorted(TREES))
def test_nothing_is_pickled(module):
    tree = TREES[module]
    assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"} & {
        name.partition(".")[0] for name in imports(tree)
    }
    called = [node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")]
    assert not {"Lambda", "read_pickle", "to_pickle", "enable_unsafe_deserialization"} & set(called)
    keywords = [node for node in ast.walk(tree) if isinstance(node, ast.keyword)]
    values = {keyword.arg: keyword.value.value for keyword in keywords if isinstance(keyword.value, ast.Constant)}
    assert not values.get("allow_pickle", False)
    assert values.get("safe_mode", True)


def test_command_starts_without_heavy_libraries(tmp_path):
    """`--help`, and commands that read params or a corpus alone."""
    root = PACKAGE.parents[1]
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    loaded = f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    (tmp_path / "own").mkdir()
    (tmp_path / "own/own.csv").write_text("text,label\nA lamp.,a\nA jar.,b\nA lid.,a\nA van.,b\n")
    for arguments in (["--help"], ["apply", "-S", "model.lstm_units=64"], ["init", "own/own.csv"]):
        code = f"import json, sys; sys.argv = {['bilstm-attention', *arguments]}; from {NAME}.cli import main\n"
        code += f"try: main()\nexcept SystemExit as end: assert not end.code, end.code\n{loaded}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == []


def test_source_files_are_small():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path.name: count for path, count in lines.items() if count > 400} == {}


def test_no_private_attribute_of_optuna():
    private = re.compile(r"optuna\.[a-z.]*\._|study\._|trial\._")
    assert [path.name for path in PACKAGE.rglob("*.py") if private.search(path.read_text(encoding="utf-8"))] == []


def test_each_imported_library_is_declared():
    """A library that merely comes with another may go with it."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {re.split(r"[^\w.-]", each)[0].lower().replace("_", "-") for each in requirements}
    owners = packages_distributions()
    used = {name.partition(".")[0] for tree in TREES.values() for name in imports(tree)}
    for library in used - sys.stdlib_module_names - {NAME}:
        names = {each.lower().replace("_", "-") for each in owners.get(library, [library])}
        assert names & declared, library
