"""params.yaml and its schema say the same; what is illegal is named; overrides keep the file readable and whole."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from bilstm_attention.errors import ParamsError
from bilstm_attention.overrides import apply_overrides, flatten, parse_override, read_overrides, with_overrides
from bilstm_attention.params import Params, Train, load_params

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "experiments/configs").glob("*.yaml"))
STAGES = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(ParamsError) as caught:
        act()
    return str(caught.value)


def refused(**overrides: Any) -> str:
    return refusal(
        lambda: with_overrides(Params(), {key.replace("__", "."): value for key, value in overrides.items()})
    )


def test_the_projects_file_holds_the_defaults_of_the_schema(file: Path) -> None:
    assert load_params(file) == Params()


def test_every_parameter_stands_in_the_file_with_a_comment_on_its_line_or_its_blocks(file: Path) -> None:
    commented, path = {}, []
    for indent, name, rest in re.findall(r"^( *)(\w+):(.*)$", file.read_text(), re.MULTILINE):
        path = [*path[: len(indent) // 2], name]
        commented[".".join(path)] = "# " in rest
    leaves = set(flatten(Params()))
    assert leaves <= set(commented)
    assert [key for key in leaves if not commented[key] and not commented[key.rpartition(".")[0]]] == []


def test_flatten_names_every_leaf_and_keeps_mappings_of_labels_to_files_whole() -> None:
    files = {"positive (+)": "a.txt"}
    flat = flatten(with_overrides(Params(), {"data.format": "classes", "data.train": files, "data.test": None}))
    assert flat["data.train"] == files
    assert flat["model.attention.kind"] == "zhou"
    assert not any(isinstance(value, dict) for key, value in flat.items() if key != "data.train")


def test_an_unknown_key_is_refused_with_the_nearest_and_all_legal_names() -> None:
    message = refused(model__lstm_unit=3)
    assert "unknown parameter model.lstm_unit; did you mean 'lstm_units'? Legal in model: train_embeddings," in message
    assert "Legal: data, embeddings, model, train, evaluate." in refused(optimiser="adam")


@pytest.mark.parametrize(
    ("key", "value", "legal"),
    [
        ("model.lstm_units", "x", "integer"),
        ("model.lstm_units", 0, "greater than or equal to 1"),
        ("model.lstm_units", 20.0, "integer"),
        ("model.l2", True, "number"),
        ("model.dropout.lstm", 1.0, "less than 1"),
        ("model.dropout.lstm", float("nan"), "less than 1"),
        ("train.optimizer", "adm", "'adam', 'adamw'"),
        ("train.optimizer", "adm", "did you mean 'adam'?"),
        ("train.seeds", [], "at least 1 item"),
        ("train.learning_rate", float("inf"), "less than or equal to 100"),
        ("train.clip_norm", 0, "greater than 0"),
        ("data.tokens.lowercase", "yes", "boolean"),
        ("data.dev_fraction", 1.0, "less than 1"),
        ("evaluate", 3, "dictionary"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_what_is_legal_and_what_was_received(
    key: str, value: Any, legal: str
) -> None:
    message = refused(**{key.replace(".", "__"): value})
    assert message.startswith(f"override: {key}: ")
    assert legal in message
    assert f"received {value!r}" in message


def test_every_fault_is_named_at_once() -> None:
    message = refused(model__lstm_units=0, model__l2=2, train__optimzer="adam", train__seeds=[-1, "a"])
    assert len(message.splitlines()) == 5
    for name in ("model.lstm_units", "model.l2", "'optimizer'", "train.seeds.0", "train.seeds.1"):
        assert name in message


def test_a_seed_is_trained_once() -> None:
    assert "train.seeds: [1, 1] repeats a seed" in refused(train__seeds=[1, 1])


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_files_are_given_as_the_format_takes_them(split: str) -> None:
    by_class = {"a": "a.txt"}
    message = refused(**{f"data__{split}": by_class})
    assert f"data.{split}: format semeval2010 takes one file's name, not {{'a': 'a.txt'}}." in message
    others = {f"data__{other}": None if other != "train" else by_class for other in ("train", "dev", "test")}
    message = refused(**{**others, "data__format": "classes", f"data__{split}": "a.txt"})
    assert f"data.{split}: format classes takes a mapping {{label: file}}, not 'a.txt'." in message


def test_a_broken_file_is_refused_with_its_name_and_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert refusal(lambda: load_params(path)) == f"{path}: no such file."
    for content, part in {
        "data:\n  text: [": "line 2",
        "- 1": "holds list",
        "": "holds NoneType",
        "model:\n  l2: 0.0\n  l2: 1.0": "line 3",
        "model: {1: 2}": "model.1: Keys should be strings",
    }.items():
        path.write_text(content)
        message = refusal(lambda: load_params(path))
        assert str(path) in message
        assert part in message
    path.write_bytes(b"data: \xff")
    assert "not a YAML file" in refusal(lambda: load_params(path))


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("model.lstm_units=200", ("model.lstm_units", 200)),
        (" train.learning_rate = 1e-4", ("train.learning_rate", 1e-4)),
        ("train.seeds=[0, 1]", ("train.seeds", [0, 1])),
        ("data.dev=", ("data.dev", None)),
        ("data.train={pos: a.txt}", ("data.train", {"pos": "a.txt"})),
        ("data.text=a=b", ("data.text", "a=b")),
        ("data.folder=no", ("data.folder", "no")),
    ],
)
def test_an_override_is_read_as_yaml(text: str, parsed: tuple[str, Any]) -> None:
    assert parse_override(text) == parsed


@pytest.mark.parametrize("text", ["model.lstm_units", "=3", "train.seeds=[0"])
def test_what_is_no_override_is_refused_as_it_was_given(text: str) -> None:
    assert refusal(lambda: parse_override(text)).startswith(f"-S {text}: ")


def test_a_nested_file_is_read_as_dotted_overrides(tmp_path: Path) -> None:
    path = tmp_path / "named.yaml"
    path.write_text(
        "data:\n  format: classes\n  train: {pos: a, neg: b}\n  test:\nmodel:\n  attention:\n    kind: mean\n"
    )
    given = {
        "data.format": "classes",
        "data.train": {"pos": "a", "neg": "b"},
        "data.test": None,
        "model.attention.kind": "mean",
    }
    assert read_overrides(path) == {**flatten(Params()), **given}


def test_a_named_experiment_means_the_same_whatever_was_applied_before(file: Path) -> None:
    written = {}
    for first in CONFIGS:
        for second in CONFIGS:
            apply_overrides(file, read_overrides(first))
            apply_overrides(file, read_overrides(second))
            assert written.setdefault(second, load_params(file)) == load_params(file)


def test_the_sample_experiment_is_the_file_as_it_comes(file: Path) -> None:
    before = file.read_text()
    apply_overrides(file, read_overrides(ROOT / "experiments/configs/zhou2016.yaml"))
    apply_overrides(file, read_overrides(ROOT / "experiments/configs/sample.yaml"))
    assert load_params(file) == Params()
    assert comments(file.read_text()) == comments(before)


def comments(text: str) -> list[str]:
    return re.findall(r"# .*", text)


def test_applying_keeps_comments_order_and_every_other_line(file: Path) -> None:
    before = file.read_text()
    apply_overrides(file, {"train.seeds": [0, 1], "model.lstm_units": 20, "train.clip_norm": None})
    after = file.read_text()
    assert comments(after) == comments(before)
    changed = [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert [line.partition("#")[0].strip() for line in changed] == ["lstm_units: 20", "seeds: [0, 1]", "clip_norm:"]


def test_a_mapping_of_files_is_applied_whole_and_taken_back(file: Path) -> None:
    before = file.read_text()
    applied = apply_overrides(
        file, {"data.format": "classes", "data.train": {"pos": "a", "neg": "b"}, "data.test": None}
    )
    assert applied == {"data.format": "classes", "data.train": {"pos": "a", "neg": "b"}, "data.test": None}
    assert load_params(file).data.train == {"pos": "a", "neg": "b"}
    apply_overrides(file, {"data.format": "semeval2010", "data.train": "train.txt", "data.test": "test.txt"})
    assert load_params(file) == Params()
    assert comments(file.read_text()) == comments(before)


def test_nothing_is_written_when_the_whole_would_be_illegal(file: Path) -> None:
    before, made = file.read_bytes(), file.stat().st_mtime_ns
    message = refusal(lambda: apply_overrides(file, {"train.epochs": 3, "model.lstm_units": 0}))
    assert f"{file} with overrides: model.lstm_units" in message
    assert (file.read_bytes(), file.stat().st_mtime_ns) == (before, made)


def test_a_failing_write_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(self: Path, *args: Any, **kwargs: Any) -> None:
        self.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        apply_overrides(file, {"train.epochs": 3})
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


VALUES = {
    "data.folder": st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=200),
    "data.dev": st.none() | st.sampled_from(["dev.txt", "no", "0", "1e3", "null", "~", "a: b", "#x"]),
    "data.split_seed": st.integers(0, 2**40),
    "model.lstm_units": st.integers(1, 4096),
    "model.l2": st.floats(0.0, 1.0),
    "model.train_embeddings": st.booleans(),
    "train.seeds": st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=40, unique=True),
    "train.learning_rate": st.floats(0.0, 100.0, exclude_min=True),
    "train.clip_norm": st.none() | st.floats(1e-9, 1e9),
    "train.optimizer": st.sampled_from(["adam", "sgd"]),
}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(overrides=st.fixed_dictionaries({}, optional=VALUES))
def test_what_is_applied_is_loaded_again_and_nothing_else_moves(overrides: dict[str, Any], tmp_path: Path) -> None:
    file = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    applied = apply_overrides(file, overrides)
    usual = flatten(Params())
    assert flatten(load_params(file)) == {**usual, **overrides}
    assert applied == {key: value for key, value in overrides.items() if usual[key] != value}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_named_experiment_applies_to_the_projects_file(config: Path, file: Path) -> None:
    before = comments(file.read_text())
    changes = read_overrides(config)
    apply_overrides(file, changes)
    assert flatten(load_params(file)) == changes
    assert comments(file.read_text()) == before


def test_there_are_named_experiments() -> None:
    assert {path.stem for path in CONFIGS} >= {"seed", "zhou2016"}


def test_a_changed_parameter_reruns_its_stage() -> None:
    assert STAGES["prepare"]["params"] == ["data"]
    assert STAGES["embed"]["params"] == ["embeddings"]
    assert set(STAGES["evaluate"]["params"]) == {"evaluate", "train.seeds", "train.monitor", "train.threads"}
    # a seed more trains one model more, not all of them again
    listed = {f"train.{name}" for name in Train.model_fields if name != "seeds"}
    assert set(STAGES["train"]["params"]) == {"model"} | listed


def test_every_block_belongs_to_a_stage() -> None:
    read = {name.partition(".")[0] for stage in STAGES.values() for name in stage["params"]}
    assert read == set(Params.model_fields)


def test_parameters_are_never_changed_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Params().model.lstm_units = 3  # type: ignore[misc]


def test_parameters_that_do_not_fit_together_are_refused() -> None:
    for overrides, part in (
        ({"model.attention.kind": "zhuo"}, "did you mean 'zhou'? Legal: bahdanau, context, dense_time,"),
        ({"model.attention.place": "before"}, "dense_time alone; zhou goes after it"),
        ({"model.attention.kind": "dense_time", "model.attention.steps": 99}, "99 is less than data.tokens.max_length"),
        ({"data.format": "delimited", "model.positions.size": 5}, "model.positions.size: 5 needs marked entities"),
        ({"data.format": "delimited", "model.entity_states": True}, "model.entity_states: true needs marked"),
        ({"data.format": "delimited", "model.attention.kind": "entity"}, "model.attention.kind: entity needs marked"),
        ({"embeddings.source": "file"}, "source file takes a file of vectors, not data/prepared/train.parquet"),
        ({"embeddings.path": "glove.txt"}, "source corpus takes the training text"),
        ({"train.schedule.warmup_epochs": 21.0}, "21.0 is more than train.epochs, 20"),
    ):
        assert part in refusal(lambda overrides=overrides: with_overrides(Params(), overrides))
