"""Makes the splits that a corpus does not bring, by sentence text and stratified by label, and checks the labels.

A split is a share of train, or one of the folds of a cross-validation.
"""

from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilstm_attention.config import Data
from bilstm_attention.data.tokens import MARKER
from bilstm_attention.errors import DataError, did_you_mean, join_lines

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
UNUSED = -1


def sentence_key(text: str) -> str:
    """What two examples share that have the same sentence: its text without markers, whitespace and case.

    >>> sentence_key("The<e1>staff</e1> of a <e2>shop</e2>.") == sentence_key("the <e2>staff</e2> of <e1>a shop</e1>.")
    True
    """
    return "".join(MARKER.sub("", text).split()).casefold()


def make_splits(rows: pd.DataFrame, data: Data) -> NDArray[np.int8]:
    """Completes train, dev and test: a missing test is split off train, then a missing dev off the rest.

    With `data.fold` the first of the two that is missing is that fold.

    Rows with the same `sentence_key` stay on one side of a split made here. Files that the corpus brings are taken as
    they are, even where they share sentences; `summary.summarize` counts those.

    Args:
        rows: those of an `index.Index`.

    Returns:
        the split that each row belongs to, as its number in `SPLITS`, int8; `UNUSED` for rows of train beyond
        `data.train_rows`, whose labels are known all the same.

    Raises:
        DataError: train has fewer than two labels or is too small to split, or dev or test, given as files, hold labels
            that train does not (listed by file and line).
    """
    given = rows["split"].to_numpy()
    splits = np.select([given == name for name in SPLITS], range(len(SPLITS))).astype(np.int8)
    if data.train_rows is not None:
        splits[np.flatnonzero(splits == 0)[data.train_rows :]] = UNUSED
    missing = [name for name in ("test", "dev") if getattr(data, name) is None]
    for name in missing:
        train = np.flatnonzero(splits == 0)
        part = rows.iloc[train]
        by_fold = data.fold is not None and name == missing[0]
        splits[train[_fold(part, data) if by_fold else _split_off(part, name, data)]] = SPLITS.index(name)
    names = rows["label"].cat.categories
    of_train = (splits <= 0, splits == 0)
    there, learnt = (np.bincount(rows["label"].cat.codes[each], minlength=len(names)) > 0 for each in of_train)
    if learnt.sum() < 2:
        raise DataError(
            f"{_source(rows.iloc[0])}: train has the label {names[learnt][0]!r} alone; a classifier needs two."
        )
    _check_labels(rows[~there[rows["label"].cat.codes]], list(names[there]))
    return splits


def _source(row: Any) -> str:
    return f"{row.file}:{row.line}"


def _check_labels(unknown: pd.DataFrame, labels: list[str]) -> None:
    if len(unknown):
        faults = (
            f"{_source(row)}: label {row.label!r} does not stand in train{did_you_mean(str(row.label), labels) or '.'}"
            for row in unknown[["file", "line", "label"]].itertuples()
        )
        raise DataError(f"{join_lines(faults)}\nLabels of train: {', '.join(labels)}.")


def _split_off(rows: pd.DataFrame, split: str, data: Data) -> NDArray[np.bool_]:
    """Takes a share of the sentences of each label; what is left has one of every label.

    Returns:
        which rows are taken.
    """
    fraction = data.test_fraction if split == "test" else data.dev_fraction
    table = pd.DataFrame({"key": rows["key"].to_numpy(), "label": rows["label"].cat.codes.to_numpy()})
    shuffled = table.sample(frac=1, random_state=data.split_seed, ignore_index=True)
    kept = shuffled.drop_duplicates("label")["key"]
    sentences = shuffled.drop_duplicates("key")
    free = sentences[~sentences["key"].isin(kept)]
    seats = _seats(sentences["label"].value_counts(sort=False), free["label"].value_counts(), fraction)
    if not seats.sum():
        raise DataError(
            f"{_source(rows.iloc[0])}: {len(sentences)} different sentences of {len(seats)} labels are too few to"
            f" split off data.{split}_fraction = {fraction}; raise it, or name a file in data.{split}."
        )
    taken = free.groupby("label").cumcount() < free["label"].map(seats)
    away: NDArray[np.bool_] = table["key"].isin(free["key"][taken]).to_numpy()
    return away


def _fold(rows: pd.DataFrame, data: Data) -> NDArray[np.bool_]:
    """Which rows are of `data.fold`: the sentences of each label are dealt out in turn, so that folds are alike.

    Sentences of a label that train would lose, such as the only one of a label, stay in train.
    """
    table = pd.DataFrame({"key": rows["key"].to_numpy(), "label": rows["label"].cat.codes.to_numpy()})
    sentences = table.sample(frac=1, random_state=data.split_seed).drop_duplicates("key")
    if len(sentences) < data.folds:
        few = f"{len(sentences)} different sentences make no {data.folds} folds"
        raise DataError(f"{_source(rows.iloc[0])}: {few}; lower data.folds.")
    dealt = sentences.sort_values("label", kind="stable")["key"].iloc[data.fold :: data.folds]
    away = table["key"].isin(dealt)
    alone = ~table["label"].isin(table["label"][~away])
    taken: NDArray[np.bool_] = (away & ~table["key"].isin(table["key"][alone])).to_numpy()
    if not taken.any():
        where = f"{_source(rows.iloc[0])}: fold {data.fold} of {data.folds}"
        raise DataError(f"{where} has no sentence that train can spare; lower data.folds.")
    return taken


def _seats(sizes: "pd.Series[int]", free: "pd.Series[int]", fraction: float) -> "pd.Series[int]":
    """How many sentences of each label to take: `fraction` of each, rounded so that the sum is right.

    Largest remainders first (Hamilton's apportionment), and never more than are free to go.
    """
    quotas = sizes.sort_index() * fraction
    most = free.reindex(quotas.index, fill_value=0)
    seats = quotas.astype(int).where(quotas < most, most)
    remainders = (quotas - seats)[seats < most].sort_values(ascending=False, kind="stable")
    seats.loc[remainders.index[: max(round(quotas.sum()) - int(seats.sum()), 0)]] += 1
    return seats
