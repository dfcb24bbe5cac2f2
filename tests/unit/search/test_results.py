from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from tests.small import begin_project

from bilstm_attention import paths
from bilstm_attention.config import Params, with_overrides
from bilstm_attention.evaluation.metrics import bootstrap_interval, scores
from bilstm_attention.search.comparison import Comparison, Table, Variant
from bilstm_attention.search.results import (
    comparison_runs,
    frequent_confusions,
    label_issues,
    save_runs,
    scores_by_class,
    tabulate,
)
from bilstm_attention.search.trainings import TrainingJob, TrainingRecord, sample_name
from bilstm_attention.tracking.runs import NOTE, PARENT, log_runs

LABELS = ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Member-Collection(e1,e2)", "Other"]
CAUSE, EFFECT, MEMBER, OTHER = LABELS
GOLD = [CAUSE, CAUSE, EFFECT, MEMBER, OTHER, OTHER]
WRONG = [CAUSE, EFFECT, MEMBER, OTHER, CAUSE, OTHER]
MEASURES = {"attention": 1.0, "random": 0.5, "gradient_input": 2.0}


def trained(
    root: Path,
    variant: str,
    seed: int,
    predicted: list[str],
    confidence: float = 0.9,
    labels: list[str] = LABELS,
    sample: tuple[int, int] = (6, 0),
) -> tuple[TrainingJob, TrainingRecord]:
    measured = {
        sample_name((rows, 0)): {
            "rows": rows,
            "comprehensiveness": MEASURES,
            "sufficiency": MEASURES,
            "entropy": float(rows),
            "attention_share": {"entity_markers": 7.0},
        }
        for rows in (6, 4)
    }
    values = {"key": "", "dev": {}, "best_epoch": 1, "history": [], "started": 0.0, "made_with": "", "environment": {}}
    record = TrainingRecord(
        **values,
        weights=10 * (1 + len(variant)),
        labels=labels,
        predicted=predicted,
        confidence=[confidence] * len(predicted),
        faithfulness=measured,
        test=confidence * np.eye(len(labels))[[labels.index(label) for label in predicted]],
    )
    return TrainingJob(f"{variant} seed={seed}", Params(), seed, root, test=True, faithfulness=(sample,)), record


def write_data(root: Path, gold: list[str]) -> Path:
    """Writes the same sentences as dev and test."""
    tokens = [["<e1>", f"first{number}", "</e1>", "<e2>", "the", "second", "</e2>"] for number in range(len(gold))]
    spans = {"e1_start": 1, "e1_end": 2, "e2_start": 4, "e2_end": 6}
    split = pd.DataFrame({"id": [*map(str, range(len(gold)))], "tokens": tokens, "label": gold}).assign(**spans)
    (root / paths.PREPARED).mkdir(parents=True)
    for name in ("dev", "test"):
        split.to_parquet(root / paths.PREPARED / f"{name}.parquet")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path, GOLD)


def comparison(*variants: str, params: Params | None = None, **options: Any) -> Comparison:
    table = Table(seeds=[0, 1], reference=variants[0], variants={name: Variant() for name in variants}, **options)
    return Comparison("page", "table", table, dict.fromkeys(variants, params or Params()))


def test_scores_spread_ensemble_and_significance(root: Path) -> None:
    good = [trained(root, "a", 0, WRONG, confidence=0.4), trained(root, "a", 1, GOLD)]
    bad = [trained(root, "bb", 0, WRONG), trained(root, "bb", 1, WRONG)]
    table = tabulate(comparison("a", "bb", test=True), {"a": good, "bb": bad}).set_index("variant")
    low = scores(GOLD, WRONG, LABELS)["official_f1"]
    assert table.loc["a", ["seed_0", "seed_1", "mean"]].tolist() == pytest.approx([low, 100, (100 + low) / 2])
    assert table.loc["a", "test_mean"] == pytest.approx((100 + low) / 2)
    # the mean of the probabilities follows the surer seed
    assert table["test_ensemble"].tolist() == pytest.approx([100, low])
    assert table.loc["a", "test_low"] <= table.loc["a", "test_mean"] <= table.loc["a", "test_high"]
    assert np.isnan(table.loc["a", "p"])
    assert 0 < table.loc["bb", "p"] <= 1
    assert table["weights_added"].tolist() == [0, 10]
    assert not [column for column in table if "comprehensiveness" in column]


def test_interval_without_test_set_is_of_dev(root: Path) -> None:
    answers = [trained(root, "a", seed, labels) for seed, labels in ((0, WRONG), (1, GOLD))]
    params = with_overrides(Params(), {"evaluate.bootstrap": 100, "evaluate.bootstrap_seed": 3})
    row = tabulate(comparison("a", params=params), {"a": answers}).iloc[0]
    expected = bootstrap_interval(GOLD, [WRONG, GOLD], "official_f1", 100, 3)
    assert (row["low"], row["high"]) == pytest.approx(expected)
    assert row["low"] < row["mean"] < row["high"]
    assert not [column for column in row.index if column.startswith("test")]


def test_folds_are_scored_together(tmp_path: Path) -> None:
    folds = [write_data(tmp_path / name, gold) for name, gold in (("first", GOLD), ("second", GOLD[:3]))]
    done = [trained(folds[0], "a", 0, WRONG), trained(folds[1], "a", 0, [OTHER, EFFECT, EFFECT])]
    (score,) = tabulate(comparison("a", folds=2), {"a": done})["mean"]
    assert score == scores(GOLD + GOLD[:3], [*WRONG, OTHER, EFFECT, EFFECT], LABELS)["official_f1"]


def test_faithfulness_is_tabulated_where_shown(root: Path) -> None:
    samples = {"a": (6, 0), "bb": (4, 0)}
    answers = {
        name: [trained(root, name, seed, GOLD, sample=sample) for seed in (0, 1)] for name, sample in samples.items()
    }
    table = tabulate(comparison("a", "bb", show=["faithfulness"]), answers)
    measures = [f"{of}_{by}" for of in ("comprehensiveness", "sufficiency") for by in MEASURES]
    assert list(table)[-9:] == ["faithfulness_rows", *measures, "entropy", "share_entity_markers"]
    assert table["sufficiency_gradient_input"].tolist() == [2, 2]
    # each variant by its own evaluate.faithfulness
    assert table["faithfulness_rows"].tolist() == table["entropy"].tolist() == [6, 4]


def test_scores_by_class_are_those_of_the_relations_on_test(root: Path) -> None:
    right, wrong = ([trained(root, name, 0, answers)] for name, answers in (("a", GOLD), ("b", WRONG)))
    table = scores_by_class({"right": right, "wrong": wrong}).set_index("class")
    assert table["items"].to_dict() == {"Cause-Effect": 3, "Member-Collection": 1, "Other": 2}
    assert table["`right`"].tolist() == [100, 100, 100]
    official = scores(GOLD, WRONG, LABELS)["official_f1"]
    assert table.loc[["Cause-Effect", "Member-Collection"], "`wrong`"].mean() == pytest.approx(official)


def test_confusions_have_their_most_certain_example(root: Path) -> None:
    better = [CAUSE, EFFECT, EFFECT, OTHER, OTHER, OTHER]
    done = [trained(root, "a", 0, WRONG, 0.6), trained(root, "a", 1, better)]
    table = frequent_confusions(done)
    assert table["answers"].tolist() == [2, 2, 1, 1]
    assert table.set_index("gold").loc[CAUSE].to_dict() == {
        "predicted": EFFECT,
        "answers": 2,
        "confidence": 90.0,
        "id": "1",
        "words": "first1 … the second",
    }
    assert len(frequent_confusions(done, shown=3)) == 3
    assert frequent_confusions([trained(root, "a", 0, GOLD)]).empty


def test_label_issues_rank_by_mean_confidence_of_the_seeds(tmp_path: Path) -> None:
    first, second = (write_data(tmp_path / name, gold) for name, gold in (("first", GOLD[:3]), ("second", GOLD[3:])))
    done = [
        *(trained(first, "a", seed, [EFFECT, EFFECT, EFFECT], 0.6 + 0.2 * seed) for seed in (0, 1)),
        # the first seed is surer of the label than the second of anything else
        *(
            trained(second, "a", seed, labels, 0.9 - seed / 2)
            for seed, labels in enumerate([[MEMBER] * 3, [OTHER] * 3])
        ),
    ]
    for job, _ in done[2:]:
        split = pd.read_parquet(job.root / paths.PREPARED / "dev.parquet").assign(id=["7", "8", "9"])
        split.to_parquet(job.root / paths.PREPARED / "dev.parquet")
    table = label_issues(done)
    assert table["id"].tolist() == ["0", "1", "8", "9"]
    assert table["confidence"].tolist() == [0.7, 0.7, 0.45, 0.45]
    assert table.iloc[0, 1:4].tolist() == ["<e1> first0 </e1> <e2> the second </e2>", CAUSE, EFFECT]
    assert table["predicted"].tolist() == [EFFECT, EFFECT, MEMBER, MEMBER]


def test_example_of_plain_classes_is_the_sentence_start(root: Path) -> None:
    table = pd.read_parquet(root / paths.PREPARED / "dev.parquet")[["id", "tokens", "label"]]
    table.assign(label=["hot", "cold"] * 3).to_parquet(root / paths.PREPARED / "dev.parquet")
    (row,) = frequent_confusions([trained(root, "a", 0, ["hot"] * 6, labels=["cold", "hot"])]).to_dict("records")
    assert (row["answers"], row["words"]) == (3, "<e1> first1 </e1> <e2> the second </e2>")


RECORD = TrainingRecord(
    key="abc",
    dev={"accuracy": 70.0},
    best_epoch=1,
    history=[{"epoch": 1, "loss": 0.5}],
    started=5.0,
    made_with="x",
    environment={"python": "of the training"},
    weights=9,
    labels=["a", "b"],
    predicted=["a"],
    confidence=[0.9],
)


@pytest.mark.parametrize(("scored", "accuracy"), [("dev", None), ("test", 100.0)])
def test_shared_training_is_a_run_of_each_table_and_variant(
    tmp_path: Path,
    mlflow_store: str,
    monkeypatch: pytest.MonkeyPatch,
    scored: Literal["dev", "test"],
    accuracy: float | None,
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    monkeypatch.chdir(begin_project(tmp_path))
    job = TrainingJob("mean seed=3", Params(), seed=3, root=paths.TRAININGS / "data/x", scored=scored)
    (job.root / paths.PREPARED).mkdir(parents=True)
    for split in ("train", "dev", "test"):
        pd.DataFrame({"label": ["a"]}).to_parquet(job.root / paths.PREPARED / f"{split}.parquet")
    # a quote ends a query of MLflow
    tables = {"one": ["zhou"], "two": ["zhou", "the snippet's"]}
    for name, variants in tables.items():
        content = {"seeds": [3], "reference": "zhou", "variants": {variant: {} for variant in variants}}
        table = Comparison("page", name, Table.model_validate(content), dict.fromkeys(variants, Params()))
        save_runs(table, {variant: [(job, RECORD)] for variant in variants})
    paths.RESULTS.mkdir(parents=True)
    (paths.RESULTS / "page.md").write_text(
        "# Page\n![one](page-one.png), [other](other.md), [labels](page-one-labels.csv)\n"
    )
    for name in ("page-one.png", "page-one-labels.csv", "page-another-one.png"):
        (paths.RESULTS / name).touch()
    for experiment, (parent, *runs) in comparison_runs() * 2:
        assert (experiment, parent.name, runs[0].name, runs[0].started) == ("sample", "page", "mean seed=3", 5.0)
        assert set(runs[0].datasets) - {"test"} == {"train", "dev"}
        log_runs(experiment, [parent, *runs], "tables")
    assert [len(runs) for _, runs in comparison_runs("page.two")] == [3]
    client = MlflowClient(mlflow_store)
    stored = client.search_runs([each.experiment_id for each in client.search_experiments()])
    (page,) = (run for run in stored if PARENT not in run.data.tags)
    assert (
        f"![one](get-artifact?path=page-one.png&run_uuid={page.info.run_id}), [other](other.md)" in page.data.tags[NOTE]
    )
    assert [file.path for file in client.list_artifacts(page.info.run_id)] == [
        "page-one-labels.csv",
        "page-one.png",
        "page.md",
    ]
    logged = [run.data for run in stored if run is not page]
    assert {run.tags[PARENT] for run in logged} == {page.info.run_id}
    places = sorted((name, variant) for name, variants in tables.items() for variant in variants)
    assert sorted((run.tags["table"], run.tags["variant"]) for run in logged) == places
    assert {(run.tags["python"], run.params["train.seeds"]) for run in logged} == {("of the training", "[3]")}
    # the fold that scores a training is test where the corpus has no test file
    assert [run.metrics.get("test/accuracy") for run in logged] == [accuracy] * 3
    assert {run.metrics["dev/accuracy"] for run in logged} == {70.0}
