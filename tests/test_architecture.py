"""Imports run one way, heavy libraries wait until they are needed, and nothing is pickled."""

import ast
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import bilstm_attention

PACKAGE = Path(bilstm_attention.__file__).parent
NAME = "bilstm_attention"
# Each room may import those before it, and its own modules.
ORDER = (
    {"errors", "paths", "blocks", "params", "overrides", "terminal", "cluster"},
    *({room} for room in ("corpus", "network", "experiment", "insight", "serving", "stages")),
    {"sweeps", "comparisons", "models", "predictions", "reports", "records"},
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


def imported_at_start(tree: ast.AST) -> list[str]:
    """Third parties that importing the module imports: those outside functions."""
    outside = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) and not node.col_offset]
    return [name.partition(".")[0] for node in outside for name in imports(node)]


def rank(module: str) -> int:
    return next(number for number, rooms in enumerate(ORDER) if module.partition(".")[0] in rooms)


def own(module: str) -> list[str]:
    names = [name.removeprefix(f"{NAME}.") for name in imports(TREES[module]) if name.startswith(f"{NAME}.")]
    return [name for name in names if name != NAME]


def test_the_whole_package_is_read() -> None:
    assert {"cli", "stages", "serving", "corpus.tokens", "experiment.tracking", "network.classifier"} <= set(TREES)


@pytest.mark.parametrize("module", sorted(name for name in TREES if not name.endswith("__init__")))
def test_imports_run_one_way(module: str) -> None:
    assert [name for name in own(module) if rank(name) > rank(module)] == []


def test_no_two_modules_import_each_other() -> None:
    def reached(module: str, seen: frozenset[str]) -> frozenset[str]:
        parts = {name if name in TREES else name.rpartition(".")[0] for name in own(module)} & set(TREES)
        for part in parts - seen:
            seen = reached(part, seen | {part})
        return seen

    assert [module for module in TREES if module in reached(module, frozenset())] == []


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("mlflow", {"experiment.tracking", "experiment.registry", "serving"}),
        (
            "optuna",
            {
                *(f"experiment.{name}" for name in ("space", "storage", "study", "trials", "sweep")),
                *(f"experiment.{name}" for name in ("outcome", "sweep_runs", "studies")),
                *(f"insight.{name}" for name in ("study_figures", "study_plots", "sweep_report")),
            },
        ),
        ("sqlalchemy", {"experiment.storage"}),
        ("distributed", {"cluster", "experiment.cluster"}),
        ("dask", {"corpus.cluster"}),
        ("gensim", {"corpus.vectors"}),
        ("pooch", {"corpus.catalog"}),
        ("matplotlib", {"insight.plots", "insight.comparison_plots", "insight.study_plots"}),
        ("plotly", {"insight.study_figures"}),
        ("jinja2", {"insight.attention_html", "insight.html"}),
    ],
)
def test_a_library_is_imported_in_its_rooms_alone(library: str, rooms: set[str]) -> None:
    found = {module for module, tree in TREES.items() if library in {name.partition(".")[0] for name in imports(tree)}}
    assert found <= rooms


@pytest.mark.parametrize(
    "module",
    [
        *sorted(ORDER[0]),
        "corpus",
        "cli",
        "stages",
        "sweeps",
        "comparisons",
        "models",
        "records",
        "serving",
        "experiment.tracking",
        "experiment.outbox",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(module: str) -> None:
    trees = [tree for name, tree in TREES.items() if name == module or name.startswith(f"{module}.")]
    assert trees
    assert not set(HEAVY) & {name for tree in trees for name in imported_at_start(tree)}


@pytest.mark.parametrize("module", sorted(TREES))
def test_nothing_is_pickled(module: str) -> None:
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


def python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


LOADED = f"import json, sys; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"


def command(*arguments: str) -> str:
    return f"import sys; sys.argv = {['bilstm-attention', *arguments]}; from {NAME}.cli import main\n" + (
        f"try: main()\nexcept SystemExit as end: assert not end.code, end.code\n{LOADED}"
    )


def test_help_loads_nothing_heavy_and_takes_less_than_a_second(tmp_path: Path) -> None:
    took = []
    for _ in range(3):
        start = time.perf_counter()
        shown = python(command("--help"), tmp_path)
        took.append(time.perf_counter() - start)
    assert json.loads(shown.splitlines()[-1]) == []
    assert min(took) < 1.0


SENTENCES = (
    "The <e1>wheel</e1> of the <e2>car</e2> broke.",
    "The <e1>car</e1> has a <e2>wheel</e2>.",
    "A <e1>dog</e1> ate <e2>it</e2>.",
)
LABELS = ("Component-Whole(e1,e2)", "Component-Whole(e2,e1)", "Other")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a corpus of a few sentences."""
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_text(
        "data: {folder: corpus, dev_fraction: 0.3}\nembeddings: {source: corpus, dimension: 4, epochs: 1}\n"
    )
    (tmp_path / "corpus").mkdir()
    for split, copies in {"train": 5, "test": 2}.items():
        rows = [(sentence, label) for sentence, label in zip(SENTENCES, LABELS, strict=True) for _ in range(copies)]
        blocks = [
            f'{number}\t"{sentence[:-1]} {split} {number}."\n{label}\nComment:\n\n'
            for number, (sentence, label) in enumerate(rows, start=1)
        ]
        (tmp_path / "corpus" / f"{split}.txt").write_text("".join(blocks))
    return tmp_path


def test_prepare_and_embed_load_nothing_heavy(project: Path) -> None:
    (project / "deeper").mkdir()
    for stage in ("prepare", "embed"):
        shown = python(command(stage), project / "deeper")
        assert shown.startswith(f"{stage}: ")
        assert json.loads(shown.splitlines()[-1]) == []
    written = {path.name for folder in ("prepared", "embeddings") for path in (project / "data" / folder).iterdir()}
    assert written == {
        *("train.parquet", "dev.parquet", "test.parquet", "words.csv", "labels.json", "summary.json"),
        *("vocabulary.txt", "matrix.npy", "coverage.json"),
    }


def test_only_evaluate_opens_the_test_set() -> None:
    """Of the stages after prepare; a comparison does too, where its file says `test: true`. No other room names it."""
    asking = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "load_split"
        and ast.unparse(node.args[0]) == "'test'"
    }
    of_comparisons = {"experiment.contenders", "experiment.standings"}
    assert asking <= {"experiment.judging", "insight.reading", "stages", *of_comparisons}
    train = next(
        node for node in ast.walk(TREES["stages"]) if isinstance(node, ast.FunctionDef) and node.name == "train"
    )
    assert "test" not in ast.unparse(train)


# What cannot change an output: messages, addresses, parameters (which DVC tracks themselves), records in MLflow.
NEVER_IN_OUTPUTS = {
    *ORDER[0],
    "stages",
    "insight.run_page",
    *(f"experiment.{name}" for name in ("runs", "outbox", "registry", "tracking", "environment")),
}


def reached(modules: set[str]) -> set[str]:
    """These modules and all that they import, as far as it can change an output."""
    found: set[str] = set()
    waiting = set(modules)
    while waiting:
        module = waiting.pop()
        if module in TREES and module not in found | NEVER_IN_OUTPUTS:
            found.add(module)
            # `from package import module` and `from package.module import name` both name a module by some prefix
            waiting |= {name for imported in own(module) for name in (imported, imported.rpartition(".")[0])}
    return found


@pytest.mark.parametrize("stage", ["prepare", "embed", "train", "evaluate"])
def test_a_stage_depends_on_all_the_code_that_it_runs(stage: str) -> None:
    function = next(node for node in TREES["stages"].body if isinstance(node, ast.FunctionDef) and node.name == stage)
    names = [name.removeprefix(f"{NAME}.") for name in imports(function)]
    if stage == "train":
        # its one picture goes to MLflow, not to an output
        names = [name for name in names if not name.startswith("insight.")]
    needed = reached({part for name in names for part in (name, name.rpartition(".")[0])})
    needed = {name for name in needed if not name.endswith("__init__")}
    pipeline = YAML(typ="safe").load((PACKAGE.parents[1] / "dvc.yaml").read_text(encoding="utf-8"))
    listed: set[str] = set()
    for dependency in pipeline["stages"][stage]["deps"]:
        path = PACKAGE.parents[1] / dependency
        if path.is_relative_to(PACKAGE):
            files = path.rglob("*.py") if path.is_dir() else [path] if path.suffix == ".py" else []
            listed |= {".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in files}
    assert {name for name in listed if not name.endswith("__init__")} == needed
