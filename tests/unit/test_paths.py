"""The project's root is reached from within; what must outlive a temporary copy is outside it; files appear whole."""

import errno
from functools import partial

import pytest
from tests.small import begin_project

from bilstm_attention.errors import UserError
from bilstm_attention.paths import atomic_write, file_lock, main_root, project_root


@pytest.mark.parametrize("inside", [".", "data", "experiments/current/models/seed-0"])
def test_root_is_reached_from_every_folder(inside, tmp_path, monkeypatch):
    root = begin_project(tmp_path / "project")
    (root / inside).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(root / inside)
    assert project_root() == main_root() == root


@pytest.mark.parametrize("missing", ["dvc.yaml", "params.yaml"])
def test_folder_outside_any_project_is_named(missing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (begin_project(tmp_path) / missing).unlink()
    with pytest.raises(UserError, match=f"^{tmp_path}: neither this folder nor one above it holds"):
        project_root()


@pytest.mark.parametrize(
    ("main", "copy"),
    [
        ("project", "project/.dvc/tmp/exps/standalone/tmpabc"),
        ("project", "project/.dvc/tmp/exps/tmpabc"),
        # a folder that is merely called so
        ("exps/tmp/project", "exps/tmp/project"),
    ],
)
def test_temporary_copy_leads_to_the_main_checkout(main, copy, tmp_path, monkeypatch):
    root, here = begin_project(tmp_path / main), begin_project(tmp_path / copy)
    (here / "data").mkdir()
    monkeypatch.chdir(here / "data")
    assert (project_root(), main_root()) == (here, root)


def test_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), None], ids=["error", "interrupt", "no file"])
def test_failed_write_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write():
        with atomic_write(path) as temporary:
            if error:
                temporary.write_text("half")
                raise error

    with pytest.raises(type(error) if error else FileNotFoundError):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_names_the_file(tmp_path):
    path = tmp_path / "file.txt"
    with pytest.raises(OSError, match="No space left") as error, atomic_write(path):
        # as the system raises it: without a name
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(path)


def test_lock_holds_others_off_until_it_is_released(tmp_path):
    lock = partial(file_lock, tmp_path, UserError("busy"))
    with lock(), pytest.raises(UserError, match="busy"), lock():
        pass
    with lock():
        pass
