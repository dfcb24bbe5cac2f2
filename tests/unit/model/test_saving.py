import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tests.unit.model.small_classifier import (
    CLASSES,
    LEARNED,
    SMALL,
    VARIANTS,
    built,
    called,
    called_once,
    drawn_matrix,
    moved,
    moved_once,
    some_tokens,
)

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.errors import DataError
from bilstm_attention.model.classifier import attention_view, load_classifier, save_classifier


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for every mechanism and option, weights moved."""
    folder = tmp_path_factory.mktemp("files")
    for number, variant in enumerate(VARIANTS):
        save_classifier(moved_once(variant), folder / f"{number}.keras")
    return folder


@pytest.mark.parametrize(("number", "variant"), list(enumerate(VARIANTS)))
def test_a_loaded_classifier_is_the_saved_one(number: int, variant: str, files: Path) -> None:
    classifier, loaded = moved_once(variant), load_classifier(files / f"{number}.keras")
    probabilities, weights = called(attention_view(loaded), some_tokens)
    np.testing.assert_array_equal(probabilities, called_once(variant)[0])
    np.testing.assert_array_equal(weights, called_once(variant)[1])
    assert sum(map(float, loaded.losses)) == pytest.approx(sum(map(float, classifier.losses)), rel=1e-6)
    assert loaded.get_layer("attention").get_config() == classifier.get_layer("attention").get_config()
    assert np.abs(loaded(some_tokens, training=True) - probabilities).max() > 1e-3


FRESH_PROCESS = """
import sys
from pathlib import Path
import keras, numpy as np
from bilstm_attention.model.classifier import attention_view, build_classifier, load_classifier, save_classifier
from bilstm_attention.config import Model

folder = Path(sys.argv[1])
model = Model.model_validate_json(sys.argv[2])
classifier = build_classifier(model, np.load(folder / "matrix.npy"), *map(int, sys.argv[3:]))
save_classifier(classifier, folder / "again.keras")
outputs = {}
for path in sorted(folder.glob("[0-9]*.keras")):
    probabilities, weights = attention_view(load_classifier(path))(np.load(folder / "tokens.npy"), training=False)
    outputs |= {f"probabilities {path.stem}": probabilities, f"weights {path.stem}": weights}
np.savez(folder / "outputs.npz", **outputs)
"""


def test_a_fresh_process_loads_the_same_outputs_and_writes_the_same_bytes(files: Path) -> None:
    """Built here after many others: what a process built before must not show in the file."""
    save_classifier(built("everything", seed=5), files / "built.keras")
    np.save(files / "tokens.npy", some_tokens)
    np.save(files / "matrix.npy", drawn_matrix())
    model = with_overrides(Params(), {**SMALL, **VARIANTS["everything"]}).model.model_dump_json()
    arguments = [str(files), model, *map(str, (LEARNED, CLASSES, 5))]
    fresh = subprocess.run([sys.executable, "-c", FRESH_PROCESS, *arguments], capture_output=True, text=True)
    assert fresh.returncode == 0, fresh.stderr

    with np.load(files / "outputs.npz") as outputs:
        assert len(outputs) == 2 * len(VARIANTS)
        for number, variant in enumerate(VARIANTS):
            for name, wanted in zip(("probabilities", "weights"), called_once(variant), strict=True):
                np.testing.assert_allclose(outputs[f"{name} {number}"], wanted, rtol=0, atol=1e-7, err_msg=variant)
    assert (files / "again.keras").read_bytes() == (files / "built.keras").read_bytes()


def test_the_bytes_follow_the_weights(tmp_path: Path) -> None:
    classifier = built()
    save_classifier(classifier, tmp_path / "first.keras")
    save_classifier(classifier, tmp_path / "same.keras")
    save_classifier(moved(classifier), tmp_path / "moved.keras")
    first, same, other = ((tmp_path / f"{name}.keras").read_bytes() for name in ("first", "same", "moved"))
    assert first == same != other


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
