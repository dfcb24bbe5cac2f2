"""The project is found from within; what must outlive a temporary copy lies outside it; files appear whole."""

from pathlib import Path

import pytest

from bilstm_attention import paths
from bilstm_attention.errors import UserError
from bilstm_attention.paths import atomic_write, main_root, project_root


def project(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dvc.yaml", "params.yaml"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("inside", [".", "data", "experiments/current/models/seed-0"])
def test_the_root_is_found_from_every_folder_of_the_project(
    inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path / "project")
    (root / inside).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(root / inside)
    assert project_root() == main_root() == root


@pytest.mark.parametrize("missing", ["dvc.yaml", "params.yaml"])
def test_a_folder_outside_any_project_is_refused_by_name(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (project(tmp_path) / missing).unlink()
    with pytest.raises(UserError, match="neither this folder nor one above it holds") as caught:
        project_root()
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("copy", [".dvc/tmp/exps/standalone/tmpabc", ".dvc/tmp/exps/tmpabc"])
def test_a_temporary_copy_knows_the_main_checkout(copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = project(tmp_path / "project")
    here = project(root / copy)
    (here / "data").mkdir()
    monkeypatch.chdir(here / "data")
    assert project_root() == here
    assert main_root() == main_root(here) == root


def test_a_folder_that_is_merely_called_exps_is_no_copy(tmp_path: Path) -> None:
    root = project(tmp_path / "exps/tmp/project")
    assert main_root(root) == root


def test_a_seed_has_its_own_folder_among_the_models() -> None:
    assert paths.seed_folder(3) == paths.MODELS / "seed-3"


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("fault", [OSError("disk"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise fault

    with pytest.raises(type(fault)):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_written_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass
    assert path.read_text() == "old"
