"""Saved classifiers: the same bytes for the same weights, the same outputs after loading, an error for any damage."""

import io
import json
import zipfile

import keras
import numpy as np
import pytest
from tests.conftest import refusal
from tests.unit.model import small_classifier as small
from tests.unit.model.small_classifier import VARIANTS, build, call, perturb, shared_outputs, some_tokens

from bilstm_attention.errors import DataError
from bilstm_attention.model.classifier import attention_view, load_classifier, save_classifier


@pytest.mark.parametrize("variant", VARIANTS)
def test_loaded_classifier_is_the_saved_one(variant, tmp_path):
    classifier = small.shared_classifier(variant)
    save_classifier(classifier, tmp_path / "model.keras")
    loaded = load_classifier(tmp_path / "model.keras")
    for one, other in zip(call(attention_view(loaded), some_tokens), shared_outputs(variant), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sum(map(float, loaded.losses)) == pytest.approx(sum(map(float, classifier.losses)), rel=1e-6)
    assert loaded.get_layer("attention").get_config() == classifier.get_layer("attention").get_config()
    assert np.abs(loaded(some_tokens, training=True) - shared_outputs(variant)[0]).max() > 1e-3


def test_bytes_follow_the_weights_alone(tmp_path):
    classifier, target = build(), tmp_path / "new" / "folder" / "model.keras"

    def saved():
        save_classifier(classifier, target)
        assert [path.name for path in target.parent.iterdir()] == ["model.keras"]
        return target.read_bytes()

    first = saved()
    assert saved() == first
    with zipfile.ZipFile(target) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == ["config.json", "metadata.json", "model.weights.h5"]
        assert json.loads(archive.read("metadata.json")) == {"keras_version": keras.__version__}
    # what this process built before does not show
    save_classifier(build(), target)
    assert target.read_bytes() == first
    perturb(classifier)
    assert saved() != first


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
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
def test_damaged_file_is_an_error_that_names_it(damage, saved, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(damage(saved))
    message = refusal(lambda: load_classifier(path), DataError)
    assert str(path) in message
    assert "`dvc repro` trains it again" in message


def test_file_with_code_is_refused(tmp_path):
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Lambda(lambda values: values)(inputs)).save(tmp_path / "model.keras")
    with pytest.raises(DataError, match="Lambda"):
        load_classifier(tmp_path / "model.keras")
