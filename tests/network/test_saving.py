import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from small_classifier import CLASSES, LEARNED, SMALL, built, called, drawn_matrix, moved, some_tokens

from bilstm_attention.errors import DataError
from bilstm_attention.network.attention import MECHANISMS
from bilstm_attention.network.classifier import attention_view, load_classifier, save_classifier
from bilstm_attention.params import Params, with_overrides


@pytest.mark.parametrize("kind", sorted(MECHANISMS))
def test_a_loaded_classifier_is_the_saved_one(kind: str, tmp_path: Path) -> None:
    classifier = moved(built(kind, overrides={"model.lstm_layers": 2, "model.merge": "concat"}))
    save_classifier(classifier, tmp_path / "model.keras")
    loaded = load_classifier(tmp_path / "model.keras")
    for found, wanted in zip(
        called(attention_view(loaded), some_tokens), called(attention_view(classifier), some_tokens), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    assert float(sum(loaded.losses)) == float(sum(classifier.losses))
    assert np.abs(loaded(some_tokens, training=True) - loaded(some_tokens, training=False)).max() > 1e-3


FRESH_PROCESS = """
import sys
from pathlib import Path
import keras, numpy as np
from bilstm_attention.network.classifier import attention_view, build_classifier, load_classifier, save_classifier
from bilstm_attention.params import Model

folder = Path(sys.argv[1])
view = attention_view(load_classifier(folder / "moved.keras"))
np.savez(folder / "outputs.npz", *(view(np.load(folder / "tokens.npy"), training=False)))
model = Model.model_validate_json(sys.argv[2])
classifier = build_classifier(model, np.load(folder / "matrix.npy"), *map(int, sys.argv[3:]))
save_classifier(classifier, folder / "again.keras")
"""


def test_a_fresh_process_loads_the_same_outputs_and_writes_the_same_bytes(tmp_path: Path) -> None:
    built("feedforward"), built()  # what a process built before must not show in the file
    classifier = built(seed=5)
    save_classifier(classifier, tmp_path / "built.keras")
    save_classifier(moved(classifier), tmp_path / "moved.keras")
    np.save(tmp_path / "tokens.npy", some_tokens)
    np.save(tmp_path / "matrix.npy", drawn_matrix())
    model = with_overrides(Params(), SMALL).model.model_dump_json()
    arguments = [str(tmp_path), model, *map(str, (LEARNED, CLASSES, 5))]
    fresh = subprocess.run([sys.executable, "-c", FRESH_PROCESS, *arguments], capture_output=True, text=True)
    assert fresh.returncode == 0, fresh.stderr

    with np.load(tmp_path / "outputs.npz") as outputs:
        for found, wanted in zip(outputs.values(), called(attention_view(classifier), some_tokens), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-7)
    assert (tmp_path / "again.keras").read_bytes() == (tmp_path / "built.keras").read_bytes()
    assert (tmp_path / "moved.keras").read_bytes() != (tmp_path / "built.keras").read_bytes()


def test_the_archive_tells_nothing_of_when_it_was_written(tmp_path: Path) -> None:
    save_classifier(built(), tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == ["config.json", "metadata.json", "model.weights.h5"]
        assert json.loads(archive.read("metadata.json")) == {"keras_version": keras.__version__}


def test_saving_leaves_the_target_alone_in_its_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "model.keras"
    save_classifier(built(seed=1), target)
    first = target.read_bytes()
    save_classifier(built(seed=2), target)
    assert target.read_bytes() != first
    assert [path.name for path in target.parent.iterdir()] == ["model.keras"]


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, classifier = tmp_path / "model.keras", built()
    save_classifier(classifier, target)
    before = target.read_bytes()

    def fails_midway(archive: zipfile.ZipFile, *_: Any) -> None:
        archive.fp.write(b"half")  # type: ignore[union-attr]
        raise OSError("disk full")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fails_midway)
    with pytest.raises(OSError, match="disk full"):
        save_classifier(moved(classifier), target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    save_classifier(built(), path)
    return path.read_bytes()


def assert_refused(path: Path) -> None:
    with pytest.raises(DataError) as error:
        load_classifier(path)
    assert str(path) in str(error.value)
    assert "`dvc repro` trains it again" in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_an_error_that_names_it(saved: bytes, share: float, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(saved[: int(share * len(saved))])
    assert_refused(path)


@pytest.mark.parametrize("place", [0.1, 0.6])
def test_a_file_with_a_flipped_byte_is_an_error_that_names_it(saved: bytes, place: float, tmp_path: Path) -> None:
    path, spoilt = tmp_path / "model.keras", bytearray(saved)
    spoilt[int(place * len(saved))] ^= 0xFF
    path.write_bytes(spoilt)
    assert_refused(path)


def test_a_file_without_its_beginning_is_an_error_that_names_it(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(saved[100:])
    assert_refused(path)


@pytest.mark.parametrize("missing", ["config.json", "model.weights.h5"])
def test_an_archive_without_a_part_is_an_error_that_names_it(saved: bytes, missing: str, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.keras", tmp_path / "model.keras"
    whole.write_bytes(saved)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            if name != missing:
                target.writestr(name, source.read(name))
    assert_refused(path)


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    assert_refused(tmp_path / "model.keras")


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Lambda(lambda values: values)(inputs)).save(tmp_path / "model.keras")
    with pytest.raises(DataError, match="Lambda"):
        load_classifier(tmp_path / "model.keras")
