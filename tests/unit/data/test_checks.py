import numpy as np
import pytest
from tests.unit.data.tables import corpus_table, index_rows

from bilstm_attention.config import Data
from bilstm_attention.data.checks import corpus_warnings
from bilstm_attention.data.splits import SPLITS


def warnings(labels: list[str], texts: list[str] | None = None, splits: str = "", **settings: object) -> list[str]:
    """Of a corpus whose rows are in train, or in the splits of these first letters."""
    rows = index_rows(train=corpus_table(labels, texts or [f"sentence {n}" for n in range(len(labels))], "t.csv"))
    codes = [[name[:2] for name in SPLITS].index(name) for name in splits.split()] or [0] * len(labels)
    return corpus_warnings(rows, np.array(codes, np.int8), Data(**settings), {}, 0)


PLAIN = {"format": "table"}
ABSENT = "has no row of"


def labels_like(*labels: str) -> list[str]:
    found = warnings([*["Cause-Effect(e1,e2)", "Other"] * 9, *labels])
    return [line for line in found if ABSENT not in line and "fewer than" not in line]


@pytest.mark.parametrize(
    "label", [f"{name}(e1,e2)" for name in ("Cause-Effect ", "cause-effect", "Cause-Efect", "Cuase-Effect")]
)
def test_misspelt_label_is_named_with_its_rows_and_the_one_it_looks_like(label):
    first = labels_like(label)[0]
    assert first == f"label {label!r} (1 row: t.csv:19) looks like 'Cause-Effect(e1,e2)'; write them alike."


def test_labels_that_are_meant_are_not_suspect():
    assert labels_like("Cause-Effect(e2,e1)") == []
    assert labels_like("Message-Topic(e1,e2)") == []
    plain = warnings([*["level 1", "level 2", "pos", "neg"] * 9, "level 3", "por"], **PLAIN)
    assert not any("looks like" in line for line in plain)


def test_label_without_direction_is_named_with_what_is_legal():
    (line,) = labels_like("Cause-Effekt")
    assert line == (
        "label 'Cause-Effekt' (1 row: t.csv:19) is neither Name(e1,e2), Name(e2,e1) nor Other or no_relation;"
        " did you mean 'Cause-Effect(e1,e2)'? official_f1 is not available."
    )


def test_labels_with_too_few_rows_or_none_in_a_split_are_counted():
    labels = ["a"] * 6 + ["b"] * 6 + ["rare"]
    splits = " ".join(["tr"] * 4 + ["de", "te"] + ["tr"] * 5 + ["te"] + ["tr"])
    assert warnings(labels, splits=splits, **PLAIN) == [
        "train has fewer than 3 rows of 1 label: rare; too few to learn.",
        "dev has no row of 2 labels: b, rare; its scores say nothing of them.",
        "test has no row of 1 label: rare; its scores say nothing of it.",
    ]


def test_contradicting_labels_and_test_sentences_in_train_are_named():
    labels, texts = ["a", "b"] * 6, [f"text {n}" for n in range(12)]
    texts[3], texts[11] = "Text  0", "text 1"
    splits = " ".join(["tr"] * 8 + ["de", "de", "te", "te"])
    found = warnings(labels, texts, splits, **PLAIN)
    assert found == [
        "equal sentences have different labels: 2 rows: t.csv:1, 4.",
        "sentences of test stand in train too: 1 row: t.csv:12.",
    ]
    # in a relation corpus a sentence may stand once for each pair of entities
    assert warnings(labels, texts, splits) == found[1:]


def test_unclean_texts_and_empty_entities_are_counted():
    rows = index_rows(train=corpus_table(["a", "b"] * 100, [f"{n} x" for n in range(200)], "t"))
    splits = np.arange(200, dtype=np.int8) % 3
    found = corpus_warnings(rows, splits, Data(format="table"), {"html": 3, "urls": 2}, 4)
    assert found == [
        "4 entities have no token and are read as an unknown word.",
        "3 of 200 rows hold HTML tags or entities; data.tokens.clean: [html] replaces them.",
    ]
