import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from tests.small import write, write_blocks

from bilstm_attention import stages
from bilstm_attention.config import Embeddings, Params, Train, read_overrides, with_overrides
from bilstm_attention.errors import ParamsError
from bilstm_attention.stages import _warn_of_first_weights, _write_live


@pytest.mark.parametrize(
    "stage",
    [lambda: stages.train(0), stages.evaluate, lambda: stages.explain([], "dev", 1, None, Path("page.html"))],
    ids=["train", "evaluate", "explain"],
)
def test_wrong_parameter_is_an_error_before_tensorflow(stage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages, "start_tensorflow", lambda: pytest.fail("TensorFlow is started"))
    Path("params.yaml").write_text("model: {lstm_unit: 3}")
    with pytest.raises(ParamsError, match="lstm_unit"):
        stage()


def test_best_takes_another_relation_corpus_by_its_data_alone(tmp_path):
    labels = ["no_relation", "org:site(e2,e1)", "org:site(e1,e2)"]
    write_blocks(tmp_path / "all.txt", [f" <e1> a{n} </e1> of <e2> b </e2> " for n in range(3)], labels, end="\n")
    files = dict.fromkeys(("data.train", "data.dev", "data.test"), "all.txt")
    best = read_overrides(Path(__file__).parents[2] / "experiments/configs/best.yaml")
    kbp37 = {"data.format": "kbp37", "data.folder": str(tmp_path), **files}
    stages.prepare(with_overrides(Params(), best | kbp37), tmp_path)
    assert json.loads((tmp_path / "data/prepared/labels.json").read_text()) == labels[:0:-1] + labels[:1]


def test_live_files_have_the_layout_of_dvclive(tmp_path):
    history: list[dict[str, Any]] = []
    for epoch, loss in ((1, 0.1 + 0.2), (2, 1e-05)):
        history.append({"epoch": epoch, "loss": loss, "dev_loss": 1.0, "dev_accuracy": 50.0, "dev_macro_f1": 40.0})
        _write_live(tmp_path, history, "accuracy")
    files = {str(file.relative_to(tmp_path)): file.read_text() for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {
        "plots/metrics/loss.tsv": "step\tloss\n1\t0.30000000000000004\n2\t1e-05\n",
        "plots/metrics/dev_loss.tsv": "step\tdev_loss\n1\t1.0\n2\t1.0\n",
        "plots/metrics/dev_accuracy.tsv": "step\tdev_accuracy\n1\t50.0\n2\t50.0\n",
        "metrics.json": '{\n  "step": 2,\n  "loss": 1e-05,\n  "dev_loss": 1.0,\n  "dev_accuracy": 50.0\n}\n',
    }


def test_average_that_holds_much_of_the_first_step_is_warned_of(capsys):
    _warn_of_first_weights(Train(epochs=18, ema=0.998), steps=31)
    warning = capsys.readouterr().err
    # 0.998 to the power of 557
    assert "after 558 steps 33 % of the averaged weights are still those of the first step" in warning
    assert "at most 0.994 leaves 5 %" in warning
    for ema, epochs, steps in ((0.994, 18, 31), (0.998, 18, 245), (0.0, 1, 2), (0.9, 1, 1)):
        _warn_of_first_weights(Train(epochs=epochs, ema=ema), steps)
    assert not capsys.readouterr().err


def test_embed_prints_the_warnings_that_it_writes(tmp_path, capsys):
    write(tmp_path / "data/prepared/words.csv", "word,count\nthe,3\n")
    write(tmp_path / "data/prepared/dev.parquet", pd.DataFrame({"tokens": [["the"]]}).to_parquet())
    vectors = write(tmp_path / "v.txt", "The 1 2\nThe 3 4\n\n")
    stages.embed(Params(embeddings=Embeddings(source="file", path=str(vectors), dimension=2)), tmp_path)
    warnings = json.loads((tmp_path / "data/embeddings/coverage.json").read_text())["warnings"]
    assert len(warnings) == 2
    assert capsys.readouterr().err.splitlines() == [f"warning: {warning}" for warning in warnings]


@pytest.mark.parametrize(("low", "told"), [(59.0, True), (60.0, True), (61.0, False)])
def test_evaluate_says_when_a_baseline_is_not_clearly_beaten(low, told, tmp_path, monkeypatch, capsys):
    summary = {"mean": 65.0, "low": low, "high": 70.0}
    baselines = {"majority": {"accuracy": 40.0}, "tfidf_logistic": {"accuracy": 60.0}}
    result = SimpleNamespace(scores={"test": {"accuracy": summary}, "baselines": baselines})
    monkeypatch.setattr("bilstm_attention.evaluation.evaluate.evaluate_models", lambda *_: result)
    monkeypatch.setattr("bilstm_attention.evaluation.results.write_results", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("data: {}")
    stages.evaluate()
    message = "the model is not clearly better than the baseline tfidf_logistic: 65.00, 60.00"
    assert (message in capsys.readouterr().out) == told
