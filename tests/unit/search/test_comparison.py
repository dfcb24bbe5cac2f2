from pathlib import Path

import pytest
from tests.end_to_end.test_compare import COMPARISON

from bilstm_attention.config import flatten
from bilstm_attention.errors import ParamsError
from bilstm_attention.search.comparison import read_page

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("file", sorted((ROOT / "experiments/comparisons").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_shipped_comparison_is_legal_and_its_page_has_its_tables_and_words(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    page, comparisons = read_page(file.relative_to(ROOT))
    assert comparisons
    shown = (ROOT / f"experiments/results/{file.stem}.md").read_text(encoding="utf-8")
    assert shown.startswith(page.about)
    for comparison in comparisons:
        assert comparison.table.about in shown
        assert {name for name in comparison.variants if f"| `{name}` |" not in shown} == set()


def test_blocks_of_parameters_leave_the_rest_of_their_block_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    text = COMPARISON.replace("{model.attention.kind: mean}", "{model: {dropout: {embedding: 0.25}}}")
    text = text.replace("sample.yaml", "best.yaml").replace("seeds:", "overrides: {train.epochs: 3}\n    seeds:")
    (tmp_path / "two.yaml").write_text(text)
    _, (comparison,) = read_page(tmp_path / "two.yaml")
    usual, changed = (flatten(comparison.variants[name]) for name in ("two hops", "mean"))
    differing = {key for key, value in usual.items() if changed[key] != value}
    assert differing == {"model.dropout.embedding", "model.attention.kind", "model.attention.hops"}
    assert changed["model.dropout.lstm"] == 0.4
    # of the page 2, of the table 3
    assert changed["train.epochs"] == 3
    assert comparison.bases["mean"].stem == "best"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("reference: mean", "reference: median"), "reference: 'median' is none of the variants, mean, two hops"),
        (("seeds:", "folds: 2\n    test: true\n    seeds:"), "a model of a fold has not learnt from all of train"),
        (("seeds:", "fold: 2\n    seeds:"), "unknown parameter tables.kinds.fold; did you mean 'folds'?"),
        (("seeds:", "test: 'no'\n    seeds:"), "tables.kinds.test: Input should be a valid boolean; received 'no'"),
        (("[equation]", "[paper]"), "words: equation: none of the columns, paper"),
        (("[faithfulness]", "[classes]"), "show: classes are of the test set; set test: true"),
        (("seeds:", "along: model.units\n    seeds:"), "kinds: mean: along: model.units is no parameter"),
        (("seeds:", "along: model.merge\n    seeds:"), "along: model.merge: 'sum' is no number"),
        (("seeds: [0, 1]", "seeds: [0, 0]"), "two.yaml: tables.kinds: seeds: [0, 0] repeats a seed"),
        (('words: {equation: "`A`"}', "word: {}"), "unknown parameter tables.kinds.variants.two hops.word; did you"),
        (
            ("kind: mean}", "kind: mean, data.fold: 1}"),
            "mean: data.fold: 1: a table has all folds or none; set its `folds`",
        ),
        (("kind: mean}", "kind: mean, train.seeds: [3]}"), "train.seeds: [3]: seeds are of the table; set its `seeds`"),
        (("kind: mean}", "kind: structured, model.attention.hops: 2}"), "mean and two hops have the same parameters"),
        (("{train.epochs", "{train.monitor: loss, train.epochs"), "train.monitor: loss compares no labels"),
        (("kind: mean}", "kind: mean, train.monitor: accuracy}"), "variants are judged by different scores; name one"),
        (
            ("{train.epochs: 2", "{data.dev: test.txt, train.epochs: 2"),
            "kinds: mean: folds are of train where the base names no dev file, and in all variants 5",
        ),
        (
            ("seeds:", "folds: 5\n    seeds:"),
            "kinds: mean: train.restore_best_weights: true: the fold is dev, and would pick the epoch whose answers",
        ),
    ],
)
def test_a_comparison_that_cannot_be_is_refused_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], message: str
) -> None:
    monkeypatch.chdir(ROOT)
    text = COMPARISON.replace(*change)
    if "data.dev" in change[1]:
        text = text.replace("seeds:", "folds: 5\n    seeds:")
    (tmp_path / "two.yaml").write_text(text)
    with pytest.raises(ParamsError) as raised:
        read_page(tmp_path / "two.yaml")
    assert message in str(raised.value)
