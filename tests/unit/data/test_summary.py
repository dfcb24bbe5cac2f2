import json
from collections import Counter
from itertools import chain

import numpy as np
import pandas as pd
from tests.unit.data.tables import index_rows, read_split

from bilstm_attention.config import Data
from bilstm_attention.data.splits import SPLITS
from bilstm_attention.data.summary import SplitStats, summarize
from bilstm_attention.data.tokens import encode_examples

DATA = Data.model_validate({"tokens": {"max_length": 9}})


def examples(*rows: tuple[str, str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["text", "label"])
    return table.assign(id=table.index.astype(str), source=[f"x.txt:{n}" for n in table.index])


TRAIN = examples(
    ("The <e1>oak</e1> hid an <e2>owl</e2>", "b"),
    ("The oak <e1>hid</e1> an <e2>owl</e2>", "a"),
    ("the <e1>OAK</e1> hid <e2>an</e2> owl", "a"),
    ("One <e1>mill</e1> and a long way off one <e2>pond</e2>", "a"),
)
TEST = examples(("The <e1>oak</e1> hid an  <e2>owl</e2>", "a"), ("A <e1>pond</e1> <e2>froze</e2>", "b"))


def tally(rows: pd.DataFrame, data: Data) -> SplitStats:
    encoded = encode_examples(rows, data)
    truncated = int((encoded["length"] > encoded["tokens"].map(len)).sum())
    lengths = encoded["length"].to_numpy(np.int32)
    return SplitStats(Counter(chain.from_iterable(encoded["tokens"])), [lengths[:1], lengths[1:]], truncated)


def summary_of(data: Data, **splits: pd.DataFrame) -> dict:
    numbers = np.repeat([SPLITS.index(name) for name in splits], [len(rows) for rows in splits.values()])
    tallies = {name: tally(rows, data) for name, rows in splits.items()}
    return summarize(index_rows(**splits), numbers.astype(np.int8), tallies)


def summary() -> dict:
    return summary_of(DATA, train=TRAIN[:3], test=TEST)


def test_rows_labels_lengths_and_words_are_counted():
    assert summary()["splits"] == {
        "train": {
            "rows": 3,
            "labels": {"a": 2, "b": 1},
            "length": {"min": 9, "p50": 9, "p95": 9, "max": 9},
            "truncated": 0,
            "tokens": 15,
            "types": 5,
        },
        "test": {
            "rows": 2,
            "labels": {"a": 1, "b": 1},
            "length": {"min": 7, "p50": 7, "p95": 7, "max": 9},
            "truncated": 0,
            "tokens": 8,
            "types": 8,
        },
    }


def test_a_sentence_that_stands_twice_is_counted_within_and_across_splits_whatever_pair_it_marks():
    assert summary()["duplicates"] == {"train-train": 2, "test-test": 0, "train-test": 1}


def test_lengths_are_those_before_cutting_and_cut_rows_are_counted():
    data = Data.model_validate({"tokens": {"max_length": 12}})
    found = summary_of(data, train=TRAIN)["splits"]["train"]
    assert found["length"] == {"min": 9, "p50": 9, "p95": 9, "max": 13}
    assert found["truncated"] == 1
    assert found["tokens"] == 15 + 8


def test_a_summary_survives_json():
    assert json.loads(json.dumps(summary())) == summary()


def test_the_real_corpus_has_the_known_duplicates(real_data):
    data = Data(folder=str(real_data / "semeval2010-task8"), train="TRAIN_FILE.TXT", test="TEST_FILE_FULL.TXT")
    found = summary_of(data, train=read_split(data, "train"), test=read_split(data, "test"))
    assert found["duplicates"]["train-train"] == 25
    assert found["duplicates"]["train-test"] == 17
    assert found["splits"]["train"]["rows"] == 8000
