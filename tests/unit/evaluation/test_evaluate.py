import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import refusal
from tests.small import train_seeds, write, write_blocks

from bilstm_attention import paths, stages
from bilstm_attention.config import load_params
from bilstm_attention.data.dataset import encode, load_labels, load_split, load_vocabulary
from bilstm_attention.errors import DataError
from bilstm_attention.evaluation import evaluate as evaluation
from bilstm_attention.evaluation import faithfulness, results
from bilstm_attention.evaluation.calibration import calibration_errors, fit_temperature, scale
from bilstm_attention.evaluation.evaluate import evaluate_models
from bilstm_attention.evaluation.metrics import metric_names, scores
from bilstm_attention.evaluation.results import read_dev_scores, read_table, write_results
from bilstm_attention.model.classifier import load_classifier
from bilstm_attention.model.predict import predict, read_attention, to_labels
from bilstm_attention.serving.classifier import load_seed
from bilstm_attention.tracking import pipeline, runs

SEEDS = [3, 8]
COMMON = """
embeddings: {source: random, dimension: 4}
model: {lstm_units: 3}
train: {seeds: [3, 8], epochs: 2, batch_size: 8, learning_rate: 0.01, monitor: MONITOR}
evaluate: {bootstrap: 100}
"""
RELATIONS = "data: {format: semeval2010, folder: corpus, dev_fraction: 0.25}" + COMMON.replace("MONITOR", "official_f1")
CLASSES = (
    "data: {format: classes, folder: corpus, train: {left: left.txt, right: right.txt}, test: null, dev_fraction: 0.25}"
    + COMMON.replace("MONITOR", "accuracy")
)
SENTENCES = {
    "Cause-Effect(e1,e2)": "The <e1>{}</e1> brought a {} <e2>{}</e2>.",
    "Cause-Effect(e2,e1)": "The <e1>{}</e1> came after a {} <e2>{}</e2>.",
    "Other": "A <e1>{}</e1> beside some {} <e2>{}</e2> in the yard.",
}
NOUNS, KINDS = ["storm", "flood", "quarrel", "delay", "fever"], ["sudden", "long", "mild"]


def write_relations(path: Path, count: int, seed: int) -> None:
    draw, labels = np.random.default_rng(seed), list(SENTENCES)
    words = ((draw.choice(NOUNS), draw.choice(KINDS), draw.choice(NOUNS)) for _ in range(count))
    write_blocks(path, [SENTENCES[labels[n % 3]].format(*each) for n, each in enumerate(words)], labels)


def trained_project(folder: Path, params: str) -> Path:
    """A project after `prepare`, `embed` and `train`, without MLflow."""
    corpus = folder / "corpus"
    write_relations(corpus / "train.txt", 48, seed=0)
    write_relations(corpus / "test.txt", 15, seed=1)
    for side, way in (("left", "west"), ("right", "east")):
        lines = [f"the {noun} drifts {kind} {way}\n" for noun in NOUNS for kind in KINDS]
        write(corpus / f"{side}.txt", "".join(lines))
    write(folder / paths.PARAMS, params)
    with contextlib.chdir(folder):
        stages.prepare()
        stages.embed()
        train_seeds(SEEDS)
    return folder


@pytest.fixture(scope="module")
def relations(tmp_path_factory):
    return trained_project(tmp_path_factory.mktemp("relations"), RELATIONS)


@pytest.fixture(scope="module")
def result(relations):
    with contextlib.chdir(relations):
        return evaluated()


def evaluated(seeds: list[int] = SEEDS):
    return evaluate_models(seeds, load_params(paths.PARAMS).evaluate)


@pytest.fixture
def inside(relations, monkeypatch):
    monkeypatch.chdir(relations)
    return relations


def test_metrics_summarise_the_scores_of_each_seed(result, inside):
    metrics, names = result.scores, list(metric_names(list(SENTENCES)))
    assert list(metrics["test"]) == list(metrics["ensemble"]) == names
    assert list(metrics["dev"]) == ["loss", *names]
    assert [list(values) for values in metrics["baselines"].values()] == [names, names]
    assert metrics["baseline_sentences"] == len(load_split("train")) > 0
    assert json.loads(json.dumps(metrics)) == metrics
    gold = result.predictions["gold"].tolist()
    test = {seed: scores(gold, result.predictions[f"seed_{seed}"].tolist(), list(SENTENCES)) for seed in SEEDS}
    dev = read_dev_scores(SEEDS)
    for split, by_seed in (("test", test), ("dev", dev)):
        for name, summary in metrics[split].items():
            values = [by_seed[seed][name] for seed in SEEDS]
            assert summary["by_seed"] == {"3": values[0], "8": values[1]}
            assert summary["mean"] == pytest.approx(np.mean(values))
            assert summary["sd"] == pytest.approx(np.std(values, ddof=1))
            assert split == "dev" or summary["low"] <= summary["mean"] <= summary["high"]


def test_tables_are_of_the_same_sentences(result, inside):
    test, dev, predictions = load_split("test"), load_split("dev"), result.predictions
    assert predictions.columns.tolist() == ["id", "gold", "predicted", "probability", "seed_3", "seed_8"]
    assert predictions["id"].tolist() == test["id"].tolist()
    assert predictions["gold"].tolist() == test["label"].tolist()
    assert result.confusion.to_numpy().sum() == len(test) == result.classes["support"].sum()
    accuracy = (predictions["gold"] == predictions["predicted"]).mean() * 100
    assert result.scores["ensemble"]["accuracy"] == pytest.approx(accuracy)
    assert result.dev_predictions.columns.tolist() == ["id", "gold", "seed_3", "seed_8"]
    assert result.dev_predictions["id"].tolist() == dev["id"].tolist()
    for seed, dev_scores in read_dev_scores(SEEDS).items():
        agreed = (result.dev_predictions["gold"] == result.dev_predictions[f"seed_{seed}"]).mean()
        assert 100 * agreed == pytest.approx(dev_scores["accuracy"])
    first, second = (pd.read_csv(paths.seed_folder(seed) / "history.csv") for seed in SEEDS)
    pd.testing.assert_frame_equal(result.learning_curves, (first + second) / 2, check_dtype=False)


def test_ensemble_is_the_label_most_probable_on_average(inside, monkeypatch):
    """Two models lean to the first label, a third is sure of the last: sums 1.05, 0.1, 1.85 of 3."""
    script = iter([[0.5, 0.05, 0.45]] * 2 + [[0.05, 0.0, 0.95]])
    labels, sentences = load_labels(), len(load_split("test"))
    monkeypatch.setattr(evaluation, "predict", lambda model, rows: np.tile(np.float32(next(script)), (len(rows), 1)))
    monkeypatch.setattr(paths, "seed_folder", lambda seed: paths.MODELS / "seed-3")
    predictions = evaluated([0, 1, 2]).predictions
    assert set(predictions["seed_0"]) == set(predictions["seed_1"]) == {labels[0]}
    assert set(predictions["seed_2"]) == set(predictions["predicted"]) == {labels[2]}
    assert predictions["probability"].tolist() == pytest.approx([1.85 / 3] * sentences)


def test_attention_is_that_of_the_first_dev_sentences(inside, monkeypatch):
    monkeypatch.setattr(evaluation, "ATTENTION_ROWS", 5)
    dev, labels = load_split("dev"), load_labels()
    result = evaluated(SEEDS[:1])
    table = result.attention[3]
    assert list(table["tokens"]) == [list(tokens) for tokens in dev["tokens"][:5]]
    assert list(table["gold"]) == dev["label"].tolist()[:5]
    model = load_classifier(paths.seed_folder(3) / "model.keras")
    probabilities, weights = read_attention(model, encode(dev, load_vocabulary(), labels))
    assert [row[0] for row in table["labels"]] == to_labels(probabilities, labels)[:5]
    shown = scale(probabilities, result.scores["test_calibration"]["temperature"]["by_seed"]["3"])
    assert [row[0] for row in table["probabilities"]] == pytest.approx(shown.max(axis=1)[:5])
    for (row,), expected in zip(table["weights"], weights[:5], strict=True):
        assert row == pytest.approx(expected.tolist())
        assert sum(row) == pytest.approx(1, abs=1e-5)
    assert len(result.dev_predictions) == len(dev)


def test_baselines_learn_from_evenly_spaced_sentences(inside, monkeypatch):
    learned: list[tuple[list, list]] = []
    monkeypatch.setattr(evaluation.metrics, "baselines", lambda *inputs: learned.append(inputs[:2]) or {})
    train = load_split("train")
    tokens, labels = [list(each) for each in train["tokens"]], train["label"].tolist()
    for limit, step in ((len(train), 1), ((len(train) + 1) // 2, 2)):
        monkeypatch.setattr(evaluation, "BASELINE_SENTENCES", limit)
        metrics = evaluated(SEEDS[:1]).scores
        assert learned.pop() == (tokens[::step], labels[::step])
        assert metrics["baseline_sentences"] == len(labels[::step])


def test_faithfulness_is_measured_on_dev_unless_turned_off(result, inside):
    dev, measured = load_split("dev"), result.scores["dev_faithfulness"]
    assert measured["rows"] == len(dev)
    for seed in SEEDS:
        model = load_classifier(paths.seed_folder(seed) / "model.keras")
        alone = faithfulness.measure(model, dev, load_vocabulary(), load_labels(), len(dev), seed=0)
        assert measured["sufficiency"]["attention"]["by_seed"][str(seed)] == alone["sufficiency"]["attention"]
    assert result.faithfulness["curves"]["percent"] == list(faithfulness.PERCENTS)
    assert "curves" not in measured
    off = load_params(paths.PARAMS).evaluate.model_copy(update={"faithfulness": 0})
    without = evaluate_models(SEEDS[:1], off)
    assert (without.faithfulness, "dev_faithfulness" in without.scores) == ({}, False)


def test_temperature_is_fitted_on_dev_and_is_of_its_model(result, relations, tmp_path, monkeypatch):
    shutil.copytree(relations, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    write_results(result, "corpus", "loss")
    rows = {split: encode(load_split(split), load_vocabulary(), load_labels()) for split in ("dev", "test")}
    model = paths.seed_folder(8) / "model.keras"
    dev, test = (predict(load_classifier(model), rows[split]) for split in ("dev", "test"))
    temperature = results.read_temperature(8)
    assert temperature == pytest.approx(fit_temperature(dev, rows["dev"].labels))
    ours = {name: each["by_seed"]["8"] for name, each in result.scores["test_calibration"]["scaled"].items()}
    assert ours == pytest.approx(calibration_errors(scale(test, temperature), rows["test"].labels))
    assert result.reliability.groupby("probabilities")["sentences"].sum().tolist() == [len(SEEDS) * len(test)] * 2
    assert load_seed(load_params(paths.PARAMS), 8).temperature == temperature
    # a model that evaluate has not seen
    shutil.copy(paths.seed_folder(3) / "model.keras", model)
    assert results.read_temperature(8) == 1


@pytest.mark.parametrize("file", [paths.PREPARED / "labels.json", paths.EMBEDDINGS / "vocabulary.txt"])
def test_model_of_other_labels_or_words_does_not_answer(file, relations, tmp_path, monkeypatch):
    shutil.copytree(relations, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    file.write_text(file.read_text() + "\n")
    with pytest.raises(DataError, match="seed-8: trained on other labels or words than data/prepared holds now"):
        load_seed(load_params(paths.PARAMS), 8)


def test_page_explains_a_split_or_sentences_by_a_seed(inside, tmp_path, capsys):
    sentence = "A <e1>storm</e1> <e2>fever</e2>"
    for texts, split, counted in (([], "dev", "sentences 3  right"), ([sentence], None, "1\n")):
        stages.explain(texts, split, 3, 8, tmp_path / "page.html")
        printed = capsys.readouterr()
        assert f"explain {tmp_path}/page.html: " in printed.out
        assert counted in printed.out
        # outside a repository of DVC
        assert "warning: whether the model is up to date is not known" in printed.err
        assert "seed 8" in (tmp_path / "page.html").read_text()


def test_results_come_back_from_their_files(result, inside):
    write_results(result, "corpus", "loss")
    for file, content in (("scores", {"corpus": "corpus", **result.scores}), ("faithfulness", result.faithfulness)):
        assert json.loads((paths.CURRENT / f"{file}.json").read_text()) == content
    pd.testing.assert_frame_equal(read_table("dev_predictions"), result.dev_predictions, check_dtype=False)
    confusion = read_table("confusion").set_index("gold").astype(int)
    pd.testing.assert_frame_equal(confusion.rename_axis(columns="predicted"), result.confusion, check_dtype=False)
    weights = pd.read_parquet(paths.CURRENT / "attention_weights/seed-8.parquet")["weights"]
    assert [list(row[0]) for row in weights] == [row[0] for row in result.attention[8]["weights"]]
    assert (paths.CURRENT / "answers/seed_3.txt").read_text().startswith("1\t")


@pytest.mark.parametrize(
    ("monitor", "name"), [("official_f1", "official_f1"), ("accuracy", "accuracy"), ("loss", "official_f1")]
)
def test_headline_shows_the_monitored_score_first(monitor, name, result):
    headline = results.headline_metrics(result.scores, monitor)
    test, dev = result.scores["test"], result.scores["dev"]
    assert list(headline["test"])[:4] == [name, "sd", "low", "high"]
    assert headline["test"].items() >= {key: test[key]["mean"] for key in (name, "accuracy", "macro_f1")}.items()
    assert headline["test"].items() >= {key: test[name][key] for key in ("sd", "low", "high")}.items()
    assert headline["dev"] == {monitor: dev[monitor]["mean"], "sd": dev[monitor]["sd"]}
    assert headline["test"]["best_baseline"] == max(scores[name] for scores in result.scores["baselines"].values())


@pytest.mark.parametrize(("monitor", "best"), [("accuracy", 8), ("loss", 5)])
def test_best_seed_has_the_best_dev_score_ties_to_the_first(monitor, best, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, accuracy, loss in ((3, 1.0, 0.3), (8, 2.0, 0.3), (5, 2.0, 0.2)):
        paths.write_json(paths.seed_folder(seed) / "dev.json", {"dev": {"accuracy": accuracy, "loss": loss}})
    assert results.best_seed([3, 8, 5], monitor) == best


READ = [paths.PREPARED / "test.parquet", paths.EMBEDDINGS / "coverage.json", paths.seed_folder(8) / "history.csv"]


@pytest.mark.parametrize("path", READ, ids=str)
def test_missing_file_is_named_with_its_command(path, hide):
    hide(path)
    message = refusal(evaluated, DataError)
    assert str(path) in message
    assert "`dvc repro`" in message


def test_plain_classes_have_no_official_score(tmp_path, monkeypatch):
    monkeypatch.chdir(trained_project(tmp_path, CLASSES))
    result = evaluated(SEEDS[:1])
    metrics = result.scores
    for part in (metrics["test"], metrics["ensemble"], *metrics["baselines"].values()):
        assert set(part) == {"accuracy", "macro_f1"}
    assert set(metrics["dev"]) == {"loss", "accuracy", "macro_f1"}
    assert metrics["test"]["accuracy"]["sd"] is None
    assert metrics["test"]["accuracy"]["mean"] == metrics["ensemble"]["accuracy"]
    assert set(result.classes["relation"]) == {"left", "right"}


def test_report_reads_no_undeclared_params(result, inside, monkeypatch):
    monkeypatch.setattr(pipeline, "evaluation_records", lambda params: [])
    monkeypatch.setattr(runs, "log_runs", lambda *arguments: {})
    write_results(result, "corpus", "official_f1")

    def drawn():
        stages.report()
        files = [file for name in ("attention", "plots") for file in (paths.CURRENT / name).iterdir()]
        return {file.name: file.read_bytes() for file in files}

    before = drawn()
    pictures = {f"{name}.png" for name in ("learning_curves", "confusion", "reliability", "attention")}
    assert {"seed-3.html", "seed-8.html", *pictures} <= set(before)
    text = paths.PARAMS.read_text()
    monkeypatch.setattr(paths, "PARAMS", inside / "other.yaml")
    paths.PARAMS.write_text(text.replace("lstm_units: 3", "lstm_units: 5").replace("folder: corpus", "folder: other"))
    assert drawn() == before
