"""The command: what each word does, and that a fault the user can mend is one message without a traceback."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bilstm_attention import cli, stages
from bilstm_attention.config import load_params
from bilstm_attention.data import download as catalog
from bilstm_attention.errors import DataError

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "prepare",
    "embed",
    "train",
    "evaluate",
    "fetch",
    "apply",
    "score",
    "scores",
    "sweep",
    "sweeps",
    "compare",
    "explain",
    "report",
    "predict",
    "promote",
    "sync",
    "ui",
)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command as the shell does: exit code, output, errors."""
    monkeypatch.setenv("COLUMNS", "200")

    def act(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bilstm-attention", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        shown = capsys.readouterr()
        assert isinstance(code, int)
        return code, shown.out, shown.err

    return act


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project; the working directory is a folder within."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path / "notes")
    return tmp_path


def test_help_names_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert set(COMMANDS) == {command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    assert [name for name in COMMANDS if f" {name} " not in out] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, run: Run) -> None:
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert f" {name} [OPTIONS]" in out
    assert "│" in out.partition("Options")[2]


def test_an_unknown_command_or_option_is_a_usage_error(run: Run) -> None:
    assert run("trian")[0] == 2
    assert run("train", "--seed", "-1")[0] == 2
    assert run("train")[0] == 2


@pytest.mark.parametrize("stage", ["prepare", "embed", "evaluate"])
def test_a_stage_runs_in_the_root_of_the_project(
    stage: str, run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, stage, lambda *_: print(Path.cwd()))
    assert run(stage) == (0, f"{project}\n", "")


def test_train_passes_the_seed_on(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "train", lambda seed: print(seed, Path.cwd()))
    assert run("train", "--seed", 7) == (0, f"7 {project}\n", "")


def test_prepare_passes_the_address_of_a_cluster_on(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "prepare", print)
    assert run("prepare") == (0, "None\n", "")
    assert run("prepare", "--dask", "tcp://host:8786") == (0, "tcp://host:8786\n", "")
    monkeypatch.setenv("BILSTM_ATTENTION_DASK", "tcp://other:8786")
    assert run("prepare") == (0, "tcp://other:8786\n", "")


def test_a_fault_is_one_message_on_stderr_without_a_traceback(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(dask: str | None) -> None:
        raise DataError("data/x.txt:3: no label.")

    monkeypatch.setattr(stages, "prepare", fail)
    assert run("prepare") == (1, "", "error: data/x.txt:3: no label.\n")


def test_outside_a_project_a_stage_says_where_to_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("prepare")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {tmp_path}: neither")


def test_a_stage_whose_input_is_missing_says_what_makes_it(run: Run, project: Path) -> None:
    code, _, err = run("embed")
    assert code == 1
    assert "words.csv: not there; `dvc repro` makes it." in err
    assert "Traceback" not in err


def test_apply_writes_a_file_of_overrides_and_single_ones_over_it(run: Run, project: Path) -> None:
    config = ROOT / "experiments/configs/zhou2016.yaml"
    code, out, err = run("apply", config, "-S", "train.seeds=[0, 1]", "--set", "train.epochs=3")
    assert (code, err) == (0, "")
    assert {"train.optimizer = adadelta", "train.seeds = [0, 1]", "train.epochs = 3"} <= set(out.splitlines())
    params = load_params(project / "params.yaml")
    assert (params.train.optimizer, params.train.seeds, params.train.epochs) == ("adadelta", [0, 1], 3)
    assert "seeds: [0, 1]             # one model" in (project / "params.yaml").read_text()


@pytest.mark.parametrize("override", ["model.lstm_unit=3", "model.lstm_units=0", "model.lstm_units", "train.seeds=["])
def test_apply_of_an_illegal_override_writes_nothing(override: str, run: Run, project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    code, out, err = run("apply", "-S", "train.epochs=3", "-S", override)
    assert (code, out) == (1, "")
    assert "lstm_unit" in err or "train.seeds" in err
    assert (project / "params.yaml").read_bytes() == before


def test_apply_of_a_file_that_is_not_there_names_it(run: Run, project: Path) -> None:
    code, _, err = run("apply", "experiments/configs/nobody.yaml")
    assert (code, err) == (1, "error: experiments/configs/nobody.yaml: no such file.\n")


@pytest.fixture
def answers(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, *labels: str) -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{number}\t{label}\n" for number, label in enumerate(labels, start=1)))
        return path

    return write


def test_score_prints_three_views_and_the_official_score_last(run: Run, answers: Callable[..., Path]) -> None:
    gold = answers("gold.txt", "Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Other")
    given = answers("answers.txt", "Cause-Effect(e1,e2)", "Cause-Effect(e1,e2)", "Other")
    code, out, err = run("score", gold, given)
    assert (code, err) == (0, "")
    assert [line[0] for line in out.splitlines() if line[1:3] == ". "] == ["1", "2", "3"]
    # both are answered with their relation, one of them the right way round
    *_, last = out.splitlines()
    assert last.startswith("Official score (macro F1")
    assert last.endswith(": 50.00")


def test_score_of_a_faulty_file_names_the_line_and_the_nearest_label(run: Run, answers: Callable[..., Path]) -> None:
    gold = answers("gold.txt", "Other", "Other")
    code, out, err = run("score", gold, answers("answers.txt", "Other", "Cause-Efect(e1,e2)"))
    assert (code, out) == (1, "")
    assert "answers.txt:2: unknown label 'Cause-Efect(e1,e2)'; did you mean 'Cause-Effect(e1,e2)'?" in err


def test_scores_before_any_evaluation_says_what_makes_them(run: Run, project: Path) -> None:
    code, out, err = run("scores")
    assert (code, out) == (1, "")
    assert "metrics.json: not there; `dvc repro` makes it." in err


def test_fetch_without_names_lists_what_can_be_fetched(run: Run, project: Path) -> None:
    code, out, err = run("fetch")
    assert (code, err) == (0, "")
    assert [row["name"] for row in catalog.describe() if row["name"] not in out] == []
    assert not (project / "data").exists()


def test_fetch_of_an_unknown_name_says_what_is_known(run: Run, project: Path) -> None:
    code, _, err = run("fetch", "semeval2010-task9")
    assert code == 1
    assert "semeval2010-task9" in err
    assert "did you mean 'semeval2010-task8'?" in err
    assert "glove-6b" in err
    assert not list((project / "data").rglob("*")) if (project / "data").exists() else True


def test_fetch_passes_names_and_mirror_on_in_order(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(catalog, "fetch", lambda *arguments, progress: calls.append(arguments))
    assert run("fetch", "mr", "glove-6b", "--mirror", "/mirror")[0] == 0
    external = project / "data/external"
    assert calls == [("mr", external, "/mirror"), ("glove-6b", external, "/mirror")]


def test_ui_opens_the_projects_store_for_this_machine_alone(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "put back after the test")
    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, arguments: started.append(arguments))
    code, out, _ = run("ui", "--port", 5050)
    assert code == 0
    assert "http://127.0.0.1:5050" in out
    words = " ".join(started[0])
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{project}/experiments/mlflow.db"
    assert "sqlite" not in words
    assert "--host 127.0.0.1 --port 5050" in words
    assert f"--default-artifact-root file://{project}/experiments/mlartifacts" in words


def test_ui_of_a_tracking_server_names_the_server_and_hides_its_password(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracking.local")
    monkeypatch.setattr("os.execv", lambda program, arguments: pytest.fail("a server was started"))
    code, out, _ = run("ui")
    assert code == 0
    assert "https://me:***@tracking.local is a tracking server" in out


def test_apply_without_anything_to_apply_is_refused(run: Run, project: Path) -> None:
    code, _, err = run("apply")
    assert code == 1
    assert "nothing to apply" in err


def test_a_seed_that_the_parameters_do_not_name_is_not_trained(run: Run, project: Path) -> None:
    code, _, err = run("train", "--seed", 7)
    assert code == 1
    assert "--seed 7: not one of train.seeds, [0]" in err


def test_score_takes_the_relations_of_another_corpus(run: Run, tmp_path: Path) -> None:
    gold, answers = tmp_path / "gold.txt", tmp_path / "answers.txt"
    gold.write_text("1\tper:title(e1,e2)\n2\tno_relation\n3\torg:founded(e2,e1)\n")
    answers.write_text("1\tper:title(e2,e1)\n2\tno_relation\n3\torg:founded(e2,e1)\n")
    code, out, err = run("score", gold, answers)
    assert (code, err) == (0, "")
    assert out.strip().endswith("50.00")
    answers.write_text("1\tper:titel(e1,e2)\n")
    code, _, err = run("score", gold, answers)
    assert code == 1
    assert "did you mean 'per:title(e1,e2)'?" in err
