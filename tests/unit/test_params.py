"""params.yaml, its schema and dvc.yaml agree; an illegal value is named with what is legal."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from tests.conftest import refusal

from bilstm_attention.config import Params, Train, apply_overrides, flatten, load_params, with_overrides

ROOT = Path(__file__).parents[2]
STAGES = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]


def refused(overrides: dict[str, Any]) -> str:
    return refusal(lambda: with_overrides(Params(), overrides))


def test_params_yaml_holds_the_defaults(file):
    assert load_params(file) == Params()


def test_every_parameter_has_a_comment_on_its_line_or_block(file):
    commented, path = {}, []
    for indent, name, rest in re.findall(r"^( *)(\w+):(.*)$", file.read_text(), re.MULTILINE):
        path = [*path[: len(indent) // 2], name]
        commented[".".join(path)] = "# " in rest
    leaves = set(flatten(Params()))
    assert leaves <= set(commented)
    assert [key for key in leaves if not commented[key] and not commented[key.rpartition(".")[0]]] == []


def test_unknown_key_is_named_with_the_nearest_and_all_legal_ones():
    message = refused({"model.lstm_unit": 3})
    assert "unknown parameter model.lstm_unit; did you mean 'lstm_units'? Legal in model: train_embeddings," in message
    assert "Legal: data, embeddings, model, train, evaluate." in refused({"optimiser": "adam"})


@pytest.mark.parametrize(
    ("key", "value", "legal"),
    [
        ("model.lstm_units", "x", "integer"),
        ("model.lstm_units", 0, "greater than or equal to 1"),
        ("model.lstm_units", 20.0, "integer"),
        ("model.l2", True, "number"),
        ("model.dropout.lstm", 1.0, "less than 1"),
        ("model.dropout.lstm", float("nan"), "less than 1"),
        ("train.optimizer", "adm", "'adam', 'adadelta'"),
        ("train.optimizer", "adm", "did you mean 'adam'?"),
        ("train.seeds", [], "at least 1 item"),
        ("train.learning_rate", float("inf"), "less than or equal to 100"),
        ("train.clip_norm", 0, "greater than 0"),
        ("data.tokens.lowercase", "yes", "boolean"),
        ("data.dev_fraction", 1.0, "less than 1"),
        ("evaluate", 3, "dictionary"),
    ],
)
def test_wrong_value_is_named_with_its_key_and_what_is_legal(key, value, legal):
    message = refused({key: value})
    assert message.startswith(f"override: {key}: ")
    assert legal in message
    assert f"received {value!r}" in message


def test_every_fault_is_named_at_once():
    message = refused({"model.lstm_units": 0, "model.l2": 2, "train.optimzer": "adam", "train.seeds": [-1, "a"]})
    assert len(message.splitlines()) == 5
    for name in ("model.lstm_units", "model.l2", "'optimizer'", "train.seeds.0", "train.seeds.1"):
        assert name in message


PLAIN = {"data.format": "table"}
FILE = {"a": "a.txt"}
CLASSES = {"data.format": "classes", "data.train": FILE, "data.test": None}
JOINED = {
    "embeddings.source": "joined",
    "embeddings.path": "data/external",
    "embeddings.sources": [
        {"source": "file", "path": "data/external/glove-6b", "dimension": 100},
        {"source": "corpus", "dimension": 50},
    ],
}


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        *(
            ({f"data.{split}": FILE}, f"data.{split}: format semeval2010 takes one file's name, not {FILE!r}.")
            for split in ("train", "dev", "test")
        ),
        ({"data.folder": "data"}, "data.folder: data holds outputs of the pipeline; use one such as data/mine"),
        ({"data.folder": "./data/"}, "holds outputs of the pipeline"),
        ({"data.relations": "markers"}, "data.relations: markers is of format table, not semeval2010"),
        ({**PLAIN, "data.relations": "words"}, "data.entities: relations words takes 2 columns, not ['subj_start',"),
        ({"data.encoding": "utf-9"}, "data.encoding: 'utf-9' is no encoding; legal are utf-8"),
        ({"model.attention.kind": "zhuo"}, "did you mean 'zhou'? Legal: feedforward, zhou, context,"),
        ({"model.attention.kind": "dense_time", "model.attention.steps": 99}, "99 is less than data.tokens.max_length"),
        ({**PLAIN, "model.attention.kind": "entity"}, "model.attention.kind: entity needs marked entities"),
        ({**PLAIN, "model.positions.size": 5}, "model.positions.size: 5 needs marked entities"),
        ({**PLAIN, "model.entity_states": True}, "model.entity_states: true needs marked"),
        ({**PLAIN, "model.entity_words": True}, "model.entity_words: true needs marked"),
        ({**PLAIN, "data.tokens.context": 3}, "data.tokens.context: 3 is counted from marked entities"),
        ({"model.frozen_copy": True, "model.train_embeddings": False}, "both would be the same"),
        ({**CLASSES, "data.train_rows": 9}, "the first 9 rows would be of the first class alone"),
        ({"data.fold": 10}, "data.fold: 10 is none of 0 to 9; data.folds is 10"),
        ({"data.fold": 0, "data.dev": "dev.txt"}, "with a file for dev and one for test nothing is split off"),
        ({"embeddings.source": "file"}, "source file takes a file of vectors, not data/prepared/train.parquet"),
        ({"embeddings.path": "glove.txt"}, "source corpus takes the training text"),
        ({"embeddings.source": "encoder"}, "source encoder takes a folder of sentence-transformers, not data/prepared"),
        ({"embeddings.source": "joined"}, "embeddings.sources: a list of file, corpus, encoder and random"),
        ({"embeddings.sources": [{}]}, "embeddings.sources: a list of file, corpus, encoder and random"),
        ({**JOINED, "embeddings.sources": [{"source": "joined"}]}, "embeddings.sources: a list of file"),
        (JOINED, "embeddings.dimension: 50 is not 150, the sum of embeddings.sources"),
        ({**JOINED, "embeddings.path": "data/external/glov"}, "glov; of joined sources a folder that holds data/"),
        ({**JOINED, "embeddings.sources": [{"pth": "x"}]}, "sources.0.pth; did you mean 'path'? Legal in embeddings."),
        ({"train.schedule.warmup_epochs": 21.0}, "21.0 is more than train.epochs, 20"),
        ({"train.seeds": [1, 1]}, "train.seeds: [1, 1] repeats a seed"),
    ],
)
def test_parameters_that_do_not_fit_together_are_named(overrides, part):
    assert part in refused(overrides)


def test_joined_sources_are_written_and_read_back(file):
    apply_overrides(file, {**JOINED, "embeddings.dimension": 150})
    params = load_params(file)
    assert [(part.source, part.dimension) for part in params.embeddings.parts] == [("file", 100), ("corpus", 50)]
    assert params.embeddings.sources[1].path == Params().embeddings.path
    assert Params().embeddings.parts == [Params().embeddings]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"data:\n  text: [", "line 2"),
        (b"- 1", "holds list"),
        (b"", "holds NoneType"),
        (b"model:\n  l2: 0.0\n  l2: 1.0", "line 3"),
        (b"model: {1: 2}", "model.1: Keys should be strings"),
        (b"data: \xff", "not a YAML file"),
        (None, "no such file."),
    ],
)
def test_broken_file_is_named_with_its_fault(content, part, tmp_path):
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    message = refusal(lambda: load_params(path))
    assert message.startswith(f"{path}: ")
    assert part in message


def test_changed_parameter_reruns_its_stage():
    assert STAGES["prepare"]["params"] == ["data"]
    assert STAGES["embed"]["params"] == ["embeddings"]
    of_train = {name for name in STAGES["evaluate"]["params"] if name.startswith("train.")}
    assert of_train == {"train.seeds", "train.monitor"}
    assert "evaluate" in STAGES["report"]["params"]
    # a further seed trains one model, not all of them again
    listed = {f"train.{name}" for name in Train.model_fields if name != "seeds"}
    assert set(STAGES["train"]["params"]) == {"model"} | listed
    read = {name.partition(".")[0] for stage in STAGES.values() for name in stage["params"]}
    assert read == set(Params.model_fields)
