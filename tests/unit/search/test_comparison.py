from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from bilstm_attention import paths
from bilstm_attention.config import flatten
from bilstm_attention.errors import ParamsError, TrainingError
from bilstm_attention.search import compare
from bilstm_attention.search.comparison import Comparison, read_page

ROOT = Path(__file__).parents[3]


COMPARISON = """
about: Of two
base: experiments/configs/sample.yaml
overrides: {train.epochs: 2, train.learning_rate: 0.03, model.lstm_units: 4, embeddings.epochs: 1}
tables:
  kinds:
    about: Two kinds
    seeds: [0, 1]
    reference: mean
    show: [faithfulness]
    variants:
      mean: {set: {model.attention.kind: mean}}
      two hops: {set: {model.attention.kind: structured, model.attention.hops: 2}}
"""


@pytest.mark.parametrize("file", sorted((ROOT / "experiments/comparisons").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_comparison_is_legal(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, comparisons = read_page(file.relative_to(ROOT))
    assert all(len(comparison.trainings()) >= len(comparison.variants) > 1 for comparison in comparisons)


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Comparison]:
    """Reads the table of `COMPARISON` after changes of its text."""
    monkeypatch.chdir(ROOT)

    def changed(*changes: tuple[str, str]) -> Comparison:
        text = COMPARISON
        for old, new in changes:
            text = text.replace(old, new)
        (tmp_path / "two.yaml").write_text(text)
        _, (comparison,) = read_page(tmp_path / "two.yaml")
        return comparison

    return changed


def test_block_of_parameters_changes_only_what_it_names(read: Callable[..., Comparison]) -> None:
    block = ("{model.attention.kind: mean}", "{model: {dropout: {embedding: 0.25}}}")
    comparison = read(block, ("sample.yaml", "best.yaml"), ("seeds:", "overrides: {train.epochs: 3}\n    seeds:"))
    usual, changed = (flatten(comparison.variants[name]) for name in ("two hops", "mean"))
    differing = {key for key, value in usual.items() if changed[key] != value}
    assert differing == {"model.dropout.embedding", "model.attention.kind", "model.attention.hops"}
    assert changed["model.dropout.lstm"] == 0.4
    # of the page 2, of the table 3
    assert changed["train.epochs"] == 3


FOLDS = ("seeds:", "folds: 5\n    seeds:")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("reference: mean", "reference: median")], "reference: 'median' is none of the variants, mean, two hops"),
        ([FOLDS, ("folds:", "test: true\n    folds:")], "a model of a fold has not learnt from all of train"),
        ([("2, train.l", "2, evaluate.faithfulness: 0, train.l")], "on evaluate.faithfulness sentences, here 0"),
        ([("[faithfulness]", "[classes]")], "show: classes are of the test set; set test: true"),
        ([("seeds: [0, 1]", "seeds: [0, 0]")], "two.yaml: tables.kinds: seeds: [0, 0] repeats a seed"),
        ([("kind: mean}", "kind: mean, data.fold: 1}")], "mean: data.fold: 1: set `folds` of the table instead"),
        ([("kind: mean}", "kind: mean, train.seeds: [3]}")], "train.seeds: [3]: set `seeds` of the table instead"),
        ([("kind: mean}", "kind: structured, model.attention.hops: 2}")], "mean and two hops have the same parameters"),
        ([("{train.epochs", "{train.monitor: loss, train.epochs")], "train.monitor: loss compares no labels"),
        ([("kind: mean}", "kind: mean, train.monitor: accuracy}")], "variants have different scores; name one"),
        ([FOLDS, ("2, train.l", "2, data.dev: test.txt, train.l")], "no dev file; here data.dev is test.txt"),
        (
            [FOLDS, ("kind: mean}", "kind: mean, data.folds: 3, train.restore_best_weights: false}")],
            "mean: data.folds: 3: set `folds` of the table instead",
        ),
        ([FOLDS], "kinds: mean: train.restore_best_weights: true: the fold is dev, and would pick the epoch"),
    ],
)
def test_illegal_comparison_is_refused_before_training(
    read: Callable[..., Comparison], changes: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(ParamsError) as raised:
        read(*changes)
    assert message in str(raised.value)


def test_trainings_cover_variants_seeds_and_folds(read: Callable[..., Comparison]) -> None:
    names = [job.name for _, job in read().trainings()]
    assert names == ["mean seed=0", "two hops seed=0", "mean seed=1", "two hops seed=1"]
    last = ("{train.epochs", "{train.restore_best_weights: false, train.epochs")
    folds = [job for _, job in read(last, ("seeds: [0, 1]", "seeds: [0]\n    folds: 2")).trainings()]
    assert [job.name for job in folds[1:3]] == ["two hops seed=0 fold=0", "mean seed=0 fold=1"]
    assert [job.params.data.fold for job in folds] == [0, 0, 1, 1]
    assert len({job.root for job in folds}) == 2
    assert {job.scored for job in folds} == {"dev"}


def test_failed_training_ends_the_comparison_with_its_name(
    read: Callable[..., Comparison], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read()
    monkeypatch.setattr(
        compare, "run_trainings", lambda jobs, workers: ((job, TrainingError("no luck")) for job in jobs)
    )
    monkeypatch.setattr(paths, "TRAININGS", tmp_path)
    with pytest.raises(TrainingError, match="mean seed=0: no luck"):
        compare.compare(tmp_path / "two.yaml", 1, prepare=Mock())


def test_each_variant_has_its_own_sample_of_faithfulness(read: Callable[..., Comparison]) -> None:
    plan = read(("kind: mean}", "kind: mean, evaluate.faithfulness: 50, evaluate.faithfulness_seed: 3}")).trainings()
    assert {(variant, job.faithfulness) for variant, job in plan} == {("mean", ((50, 3),)), ("two hops", ((200, 0),))}
