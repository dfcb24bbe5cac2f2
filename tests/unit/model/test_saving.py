"""Saved classifiers: the same bytes for the same weights, the same outputs after loading, an error for any damage."""

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from tests.unit.model.small_classifier import (
    CLASSES,
    LEARNED,
    SMALL,
    VARIANTS,
    build,
    call,
    drawn_matrix,
    perturb,
    shared_classifier,
    shared_outputs,
    some_tokens,
)

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.errors import DataError
from bilstm_attention.model.classifier import attention_view, load_classifier, save_classifier


@pytest.mark.parametrize("variant", VARIANTS)
def test_loaded_classifier_is_the_saved_one(variant: str, tmp_path: Path) -> None:
    classifier = shared_classifier(variant)
    save_classifier(classifier, tmp_path / "model.keras")
    loaded = load_classifier(tmp_path / "model.keras")
    for one, other in zip(call(attention_view(loaded), some_tokens), shared_outputs(variant), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sum(map(float, loaded.losses)) == pytest.approx(sum(map(float, classifier.losses)), rel=1e-6)
    assert loaded.get_layer("attention").get_config() == classifier.get_layer("attention").get_config()
    assert np.abs(loaded(some_tokens, training=True) - shared_outputs(variant)[0]).max() > 1e-3


FRESH_PROCESS = """
import sys
from pathlib import Path
import numpy as np
from bilstm_attention.model.classifier import attention_view, build_classifier, load_classifier, save_classifier
from bilstm_attention.config import Model

folder = Path(sys.argv[1])
model = Model.model_validate_json(sys.argv[2])
classifier = build_classifier(model, np.load(folder / "matrix.npy"), *map(int, sys.argv[3:]))
save_classifier(classifier, folder / "again.keras")
probabilities, weights = attention_view(load_classifier(folder / "model.keras"))(np.load(folder / "tokens.npy"))
np.savez(folder / "outputs.npz", probabilities, weights)
"""


def test_fresh_process_loads_the_same_and_writes_the_same_bytes(tmp_path: Path) -> None:
    """Built here after many others: what a process built before must not show in the file."""
    classifier = build("everything", seed=5)
    save_classifier(classifier, tmp_path / "model.keras")
    np.save(tmp_path / "tokens.npy", some_tokens)
    np.save(tmp_path / "matrix.npy", drawn_matrix())
    model = with_overrides(Params(), {**SMALL, **VARIANTS["everything"]}).model.model_dump_json()
    command = [sys.executable, "-c", FRESH_PROCESS, str(tmp_path), model, *map(str, (LEARNED, CLASSES, 5))]
    fresh = subprocess.run(command, capture_output=True, text=True)
    assert fresh.returncode == 0, fresh.stderr
    with np.load(tmp_path / "outputs.npz") as outputs:
        for one, other in zip(outputs.values(), call(attention_view(classifier), some_tokens), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-7)
    assert (tmp_path / "again.keras").read_bytes() == (tmp_path / "model.keras").read_bytes()


def test_bytes_follow_the_weights_and_not_the_time(tmp_path: Path) -> None:
    classifier, target = build(), tmp_path / "new" / "folder" / "model.keras"

    def saved() -> bytes:
        save_classifier(classifier, target)
        assert [path.name for path in target.parent.iterdir()] == ["model.keras"]
        return target.read_bytes()

    first = saved()
    assert saved() == first
    with zipfile.ZipFile(target) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == ["config.json", "metadata.json", "model.weights.h5"]
        assert json.loads(archive.read("metadata.json")) == {"keras_version": keras.__version__}
    perturb(classifier)
    assert saved() != first


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    save_classifier(build(), path)
    return path.read_bytes()


def without(content: bytes, missing: str) -> bytes:
    """The archive without one of its parts."""
    rest = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(rest, "w") as target:
        for name in source.namelist():
            if name != missing:
                target.writestr(name, source.read(name))
    return rest.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:200] + b"?" + content[201:],
        lambda content: content[100:],
        *(lambda content, part=part: without(content, part) for part in ("config.json", "model.weights.h5")),
    ],
    ids=["empty", "half", "changed byte", "no beginning", "no config", "no weights"],
)
def test_damaged_file_is_an_error_that_names_it(damage: Callable[[bytes], bytes], saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(damage(saved))
    with pytest.raises(DataError) as error:
        load_classifier(path)
    assert str(path) in str(error.value)
    assert "`dvc repro` trains it again" in str(error.value)


def test_file_with_code_is_refused(tmp_path: Path) -> None:
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Lambda(lambda values: values)(inputs)).save(tmp_path / "model.keras")
    with pytest.raises(DataError, match="Lambda"):
        load_classifier(tmp_path / "model.keras")
