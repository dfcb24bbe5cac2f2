"""Overrides keep params.yaml readable and whole; a named experiment does not depend on the one applied before."""

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.conftest import refusal

from bilstm_attention import config as config_module
from bilstm_attention.config import Params, apply_overrides, flatten, load_params, parse_override, read_overrides

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "experiments/configs").glob("*.yaml"))
CLASSES = {"data.format": "classes", "data.train": {"positive (+)": "a", "neg": "b"}, "data.test": None}


def comments(text: str) -> list[str]:
    return re.findall(r"# .*", text)


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
def test_override_is_read_as_yaml(text, parsed):
    assert parse_override(text) == parsed


@pytest.mark.parametrize("text", ["model.lstm_units", "=3", "train.seeds=[0"])
def test_malformed_override_is_quoted(text):
    assert refusal(lambda: parse_override(text)).startswith(f"-S {text}: ")


def test_nested_file_is_read_as_dotted_overrides(tmp_path):
    path = tmp_path / "named.yaml"
    path.write_text("data:\n  format: classes\n  train: {positive (+): a, neg: b}\n  test:\n")
    assert read_overrides(path) == {**flatten(Params()), **CLASSES}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_named_experiment_is_applied_whole_and_led_back(config, file):
    before, changes = file.read_bytes(), read_overrides(config)
    # whatever was applied before
    apply_overrides(file, read_overrides(ROOT / "experiments/configs/best.yaml"))
    apply_overrides(file, changes)
    assert flatten(load_params(file)) == changes
    apply_overrides(file, read_overrides(ROOT / "experiments/configs/sample.yaml"))
    assert file.read_bytes() == before


def test_config_text_is_read_as_the_same_parameters(tmp_path):
    params = config_module.with_overrides(Params(), {**CLASSES, "train.seeds": [3, 4], "data.folder": "a\u2028b"})
    path = tmp_path / "named.yaml"
    path.write_text(config_module.config_text(params, "two seeds"), encoding="utf-8")
    assert path.read_text(encoding="utf-8").startswith("# two seeds\n")
    assert "seeds: [3, 4]" in path.read_text(encoding="utf-8")
    assert read_overrides(path) == flatten(params)


def test_applying_keeps_comments_order_and_other_lines(file):
    before = file.read_text()
    apply_overrides(file, {"train.seeds": [0, 1], "model.lstm_units": 20, "train.clip_norm": None})
    after = file.read_text()
    assert comments(after) == comments(before)
    changed = [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert [line.partition("#")[0].strip() for line in changed] == ["lstm_units: 20", "seeds: [0, 1]", "clip_norm:"]


def test_illegal_overrides_write_nothing(file):
    before, written = file.read_bytes(), file.stat().st_mtime_ns
    message = refusal(lambda: apply_overrides(file, {"train.epochs": 3, "model.lstm_units": 0}))
    assert f"{file} with overrides: model.lstm_units" in message
    assert (file.read_bytes(), file.stat().st_mtime_ns) == (before, written)


VALUES = {
    "data.folder": st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=200).map("corpus".__add__),
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


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(overrides={"data.folder": "\x85"}).via("a line break that YAML would fold")
@example(overrides={"data.folder": "a\u2028b \x7f\t\u00ad\ufeff "}).via("what does not print")
@given(overrides=st.fixed_dictionaries({}, optional=VALUES))
def test_applied_values_are_loaded_and_others_unchanged(overrides, tmp_path):
    file = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    applied = apply_overrides(file, overrides)
    defaults = flatten(Params())
    assert flatten(load_params(file)) == {**defaults, **overrides}
    assert applied == {key: value for key, value in overrides.items() if defaults[key] != value}
