"""The command: what each subcommand does; a fault that the user can fix is one message without a traceback."""

import errno
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from tests.small import write

from bilstm_attention import cli, stages
from bilstm_attention.config import load_params
from bilstm_attention.console import THREADS
from bilstm_attention.data import download as catalog
from bilstm_attention.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs the command as the shell does: exit code, output, errors."""
    monkeypatch.setenv("COLUMNS", "200")
    # what a command sets is undone after the test
    monkeypatch.setenv(THREADS, "1")
    monkeypatch.delenv(THREADS)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bilstm-attention", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        shown = capsys.readouterr()
        assert isinstance(code, int)
        return code, shown.out, shown.err

    return call


@pytest.fixture
def succeed(run):
    """Runs the command, which prints no error; returns its output."""

    def call(*arguments):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        return out

    return call


@pytest.fixture
def refuse(run):
    """Runs the command, which fails and prints only an error; returns that."""

    def call(*arguments):
        code, out, err = run(*arguments)
        assert (code, out) == (1, "")
        assert "Traceback" not in err
        return err

    return call


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project; the working directory is a folder within."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "experiments/configs", tmp_path / "experiments/configs")
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path / "notes")
    return tmp_path


def test_help_names_every_command(succeed):
    out = succeed("--help")
    commands = [command.callback.__name__ for command in cli.app.registered_commands if command.callback]
    assert [name for name in (*commands, "--install-completion") if f" {name} " not in out] == []
    for name in commands:
        assert f" {name} [OPTIONS]" in succeed(name, "--help")


def test_version_is_one_line(succeed):
    assert re.fullmatch(r"bilstm-attention \d+\.\d+\.\d+\n", succeed("--version"))


@pytest.mark.parametrize("arguments", [["trian"], ["train"], ["train", "--seed", -1], ["evaluate", "--threads", 0]])
def test_wrong_usage_has_exit_code_2(arguments, run):
    assert run(*arguments)[0] == 2


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        *((name, "") for name in ("prepare", "embed", "evaluate", "sync")),
        ("train --seed 7", "7"),
        ("report", "now: bilstm-attention scores"),
        ("scores", "now: bilstm-attention explain --split dev"),
        ("scores --markdown", "True"),
        ("explain --split dev --output page.html", "now: open {here}/page.html in a browser"),
        ("explain --text a --text b --seed 2 --output p.html", "['a', 'b'] None 50 2 {here}/p.html\nnow: "),
    ],
)
def test_stage_runs_in_the_root_and_names_the_next_step(words, shown, succeed, project, monkeypatch):
    name, *options = words.split()
    function = {"scores": "show_scores"}.get(name, name)
    monkeypatch.setattr(stages, function, lambda *arguments: print(Path.cwd(), *arguments))
    out = succeed(name, *options)
    assert out.startswith(str(project))
    assert shown.format(here=project / "notes") in out
    assert ("now: " in out) == ("now: " in shown)


@pytest.mark.parametrize(
    ("option", "variable", "threads"), [(None, None, "2"), (None, "3", "3"), ("4", "3", "4"), ("4", None, "4")]
)
def test_threads_come_from_option_else_environment(option, variable, threads, run, project, monkeypatch):
    monkeypatch.setattr(stages, "evaluate", lambda: print(os.environ[THREADS]))
    if variable:
        monkeypatch.setenv(THREADS, variable)
    assert run("evaluate", *(("--threads", option) if option else ())) == (0, f"{threads}\n", "")


FORBIDDEN = "change its permissions, or write elsewhere"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("data/x.txt:3: no label."), "data/x.txt:3: no label."),
        (OSError(errno.ENOSPC, "full", "a.csv"), "a.csv: No space left on device; free some space."),
        (OSError(errno.ENOSPC, "full"), "a file: No space left on device; free some space."),
        (OSError(errno.EACCES, "no", "a.csv"), f"a.csv: Permission denied; {FORBIDDEN}."),
        (OSError(errno.EROFS, "no", "a.csv"), f"a.csv: Read-only file system; {FORBIDDEN}."),
    ],
)
def test_fault_is_one_line_on_stderr(error, message, refuse, project, monkeypatch):
    monkeypatch.setattr(stages, "embed", Mock(side_effect=error))
    assert refuse("embed") == f"error: {message}\n"


def test_other_system_errors_keep_their_traceback(run, project, monkeypatch):
    monkeypatch.setattr(stages, "embed", Mock(side_effect=OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        run("embed")


def test_outside_a_project_a_stage_says_where_to_run(refuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refuse("prepare").startswith(f"error: {tmp_path}: neither")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["embed"], "words.csv: not there; `dvc repro` makes it."),
        (["scores"], "scores.json: not there; `dvc repro` makes it."),
        (["train", "--seed", 7], "--seed 7: not one of train.seeds, [0]"),
        (["explain", "--split", "dev", "--seed", 9], "--seed 9: not one of train.seeds, [0]; no model has it."),
        (["apply"], "nothing to apply"),
        (["apply", "experiments/configs/nobody.yaml"], "experiments/configs/nobody.yaml: no such file."),
        (["apply", "zhuo2016"], "zhuo2016: no such file; did you mean 'zhou2016'?"),
        (["explain"], "neither of --text and --split"),
        (["explain", "--text", "a", "--split", "dev"], "both of --text and --split"),
        (["predict", "--input", "a.csv"], "a table is --input TABLE --output TABLE"),
        (["fetch", "semeval2010-task9"], "did you mean 'semeval2010-task8'?"),
        (["fetch", "semeval"], "did you mean 'semeval2010-task8'?"),
        (["apply", "-S", "lstm_units=64"], "unknown parameter lstm_units; did you mean 'model.lstm_units'?"),
        (["apply", "-S", "train.seeds=0"], "received 0; write [0]."),
        (["apply", "-S", "train.epochs=3", "-S", "model.lstm_units"], "-S model.lstm_units: an override is written"),
    ],
)
def test_command_says_what_is_missing(arguments, part, refuse, project):
    assert part in refuse(*arguments)


def test_apply_sets_a_named_experiment_and_single_parameters(succeed, project):
    config = ROOT / "experiments/configs/zhou2016.yaml"
    lines = succeed("apply", config, "-S", "train.seeds=[0, 1]", "--set", "train.epochs=3").splitlines()
    assert {"train.optimizer: adam -> adadelta", "train.seeds: [0] -> [0, 1]", "train.epochs: 20 -> 3"} <= set(lines)
    # what the parameters name is not there
    assert lines[-1] == "now: bilstm-attention fetch semeval2010-task8 glove-6b && dvc repro"
    params = load_params(project / "params.yaml")
    assert (params.train.optimizer, params.train.seeds, params.train.epochs) == ("adadelta", [0, 1], 3)
    for folder in ("semeval2010-task8", "glove-6b"):
        (project / "data/external" / folder).mkdir(parents=True)
    assert succeed("apply", "-S", "train.epochs=3") == "params.yaml is unchanged.\nnow: dvc repro\n"
    succeed("apply", "mr")
    assert load_params(project / "params.yaml").data.format == "classes"


@pytest.fixture
def table(project):
    """A table with two columns that may be the label."""
    rows = [f"House {n} has {n + 3} lamps.,{n % 2},{n % 3}" for n in range(30)]
    return write(project / "data/own/views.csv", "\n".join(["text,mood,tone", *rows]))


def test_init_writes_a_config_that_apply_takes(succeed, project, table):
    out = succeed("init", os.path.relpath(table), "--label", "tone")
    config = project / "experiments/configs/views.yaml"
    assert out.splitlines()[0] == "data/own: table, utf-8; train: views.csv"
    assert out.splitlines()[-2:] == [f"wrote {config}", "now: bilstm-attention apply views && dvc repro"]
    # a folder of that name is no config
    Path("views").mkdir()
    succeed("apply", "views")
    data = load_params(project / "params.yaml").data
    assert (data.folder, data.train, data.test, data.label) == ("data/own", "views.csv", None, "tone")


def test_init_overwrites_a_config_by_force_alone(run, project, table):
    own = project / "notes/my own.yaml"
    arguments = ("init", table, "--text", "text", "--label", "mood", "-o", own)
    code, out, _ = run(*arguments)
    assert (code, out.splitlines()[-1]) == (0, f"now: bilstm-attention apply '{own}' && dvc repro")
    own.write_text("mine")
    code, _, err = run(*arguments)
    assert (code, own.read_text()) == (1, "mine")
    assert err.startswith(f"error: {own}: exists; --force overwrites it")
    assert run(*arguments, "--force")[0] == 0
    assert own.read_text() != "mine"
    # a folder cannot be overwritten
    assert run("init", table, "--label", "mood", "-o", project, "--force")[0] == 2


def test_init_asks_on_a_terminal_alone(run, project, table, monkeypatch):
    code, _, err = run("init", table)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "any of the columns mood, tone; name it with --label COLUMN" in err
    terminal = io.StringIO("shade\ntone\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    code, out, _ = run("init", table)
    assert code == 0
    assert out.count("which is it? (mood, tone)") == 2
    assert "label: tone" in (project / "experiments/configs/views.yaml").read_text()


def test_score_names_the_nearest_label_of_the_key(refuse, tmp_path):
    for name, label in (("gold", "per:title(e1,e2)"), ("answers", "per:titel(e1,e2)")):
        (tmp_path / name).write_text(f"1\t{label}\n")
    err = refuse("score", tmp_path / "gold", tmp_path / "answers")
    assert "answers:1: unknown label 'per:titel(e1,e2)'; did you mean 'per:title(e1,e2)'?" in err


def test_fetch_without_names_lists_the_catalogue(succeed, project, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = succeed("fetch")
    words = {word for row in catalog.describe() for key in ("name", "source", "size") for word in row[key].split(", ")}
    assert [word for word in words if word not in out] == []
    assert max(map(len, out.splitlines())) <= 80
    assert not (project / "data").exists()


def test_fetch_passes_on_names_and_mirror(succeed, project, monkeypatch):
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(catalog, "fetch", lambda *arguments, progress: calls.append(arguments))
    out = succeed("fetch", "mr", "glove-6b", "--mirror", "/mirror")
    external = project / "data/external"
    assert calls == [("mr", external, "/mirror"), ("glove-6b", external, "/mirror")]
    assert "apply CONFIG, which is one of best, keras_snippet, mr, zhou2016-tuned, zhou2016\n" in out
    assert "which is one of best, zhou2016-tuned, zhou2016\n" in succeed("fetch", "semeval2010-task8")


def test_interrupted_sweep_says_that_it_resumes(run, project, monkeypatch):
    search = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr("bilstm_attention.search.commands.sweep", search)
    options = ("--trials", 6, "--hours", 2, "--workers", 1, "--storage", "sqlite:///s.db", "--heartbeat", 3)
    code, _, err = run("sweep", "sweep.yaml", *options, "-S", "train.epochs=3")
    search.assert_called_once_with(
        project / "notes/sweep.yaml", 6, 2.0, 1, "sqlite:///s.db", 3, {"train.epochs": 3}, stages.prepare_data
    )
    assert code != 0
    assert "stopped; the same command goes on from here." in err


def test_interrupted_training_says_that_it_resumes(run, project, monkeypatch):
    monkeypatch.setattr(stages, "train", Mock(side_effect=KeyboardInterrupt))
    code, _, err = run("train", "--seed", 0)
    assert code != 0
    assert "stopped; the same command goes on from here." in err


def test_command_ends_without_a_search_for_garbage():
    program = """
import atexit, gc
from bilstm_attention.cli import main
# registered before those of main, so called after them
atexit.register(lambda: print("left to search:", len(gc.get_objects()) > 1000))
main()
"""
    done = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "left to search: False"


def test_promote_says_how_to_serve(succeed, project, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("bilstm_attention.tracking.registry.promote", print)
    out = succeed("promote", "--run", "best", "--if-better")
    assert out.startswith("sample sample best True\n")
    assert f"MLFLOW_TRACKING_URI=sqlite:///{project}/experiments/mlflow.db \\\n" in out
    assert "mlflow models serve -m models:/sample@champion --env-manager local --port 5001" in out
