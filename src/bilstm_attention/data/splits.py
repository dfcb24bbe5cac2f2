"""Splits dev and test off train where a corpus has no file for them, by sentence and stratified by label.

A split is a share of train, or one fold of a cross-validation. scikit-learn's grouped splitters would choose other rows
than those of the published scores.
"""

from heapq import heapreplace
from typing import Literal

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
    """Key of a sentence, its text without markers, whitespace and case; equal sentences stay on one side of a split.

    >>> sentence_key("The<e1>staff</e1> of a <e2>shop</e2>.") == sentence_key("the <e2>staff</e2> of <e1>a shop</e1>.")
    True
    """
    return "".join(MARKER.sub("", text).split()).casefold()


def make_splits(rows: pd.DataFrame, data: Data) -> NDArray[np.int8]:
    """Assigns rows of `corpus.read_corpus`: a missing test is split off train, then a missing dev off the rest.

    With `data.fold`, the first missing one of the two is that fold. Files of the corpus are not changed, even where
    they share sentences; `prepare.summarize` counts those.

    Returns:
        the split of each row, as its index in `SPLITS`, int8; `UNUSED` for rows of train beyond `data.train_rows`,
        whose labels count as known.

    Raises:
        DataError: train has fewer than two labels or is too small to split, or a dev or test file holds labels that
            train does not (listed by file and line).
    """
    file_splits = rows["split"].to_numpy()
    splits = np.select([file_splits == name for name in SPLITS], range(len(SPLITS))).astype(np.int8)
    if data.train_rows is not None:
        splits[np.flatnonzero(splits == 0)[data.train_rows :]] = UNUSED
    missing = [name for name in ("test", "dev") if getattr(data, name) is None]
    for name in missing:
        train = np.flatnonzero(splits == 0)
        part = rows.iloc[train]
        by_fold = data.fold is not None and name == missing[0]
        splits[train[_fold(part, data) if by_fold else _split_off(part, name, data)]] = SPLITS.index(name)
    names, codes = rows["label"].cat.categories, rows["label"].cat.codes
    known, trained = (np.bincount(codes[part], minlength=len(names)) > 0 for part in (splits <= 0, splits == 0))
    if trained.sum() < 2:
        raise DataError(f"{_first(rows)}: train has only the label {names[trained][0]!r}; two are needed.")
    unknown, legal = rows[~known[codes]], list(names[known])
    if len(unknown):
        faults = (
            f"{row.file}:{row.line}: label {row.label!r} is not in train{did_you_mean(str(row.label), legal) or '.'}"
            for row in unknown[["file", "line", "label"]].itertuples()
        )
        raise DataError(f"{join_lines(faults)}\nLabels of train: {', '.join(legal)}.")
    return splits


def _first(rows: pd.DataFrame) -> str:
    return f"{rows['file'].iloc[0]}:{rows['line'].iloc[0]}"


def _split_off(rows: pd.DataFrame, split: str, data: Data) -> NDArray[np.bool_]:
    """Marks a share of the rows of each label, by whole sentences; the rest keeps a sentence of every label.

    Each different sentence has the same chance, however often it is repeated. Without `data.count_repeats` the chance
    grows with the repeats, and sentences are counted, not rows.
    """
    fraction = data.test_fraction if split == "test" else data.dev_fraction
    table = pd.DataFrame({"key": rows["key"].to_numpy(), "label": rows["label"].cat.codes.to_numpy()})
    last, counts = ~table["key"].duplicated(keep="last"), table["key"].value_counts()
    shuffled = table.sample(frac=1, random_state=data.split_seed)
    if data.count_repeats:
        sentences = shuffled[last.loc[shuffled.index]]
        sentences = sentences.assign(rows=counts.loc[sentences["key"]].to_numpy())
    else:
        sentences = shuffled.drop_duplicates("key").assign(rows=1)
    free = sentences[~sentences["key"].isin(sentences.drop_duplicates("label")["key"])]
    sizes, most = (each.groupby("label")["rows"].sum() for each in (sentences, free))
    seats = _seats(sizes, most, fraction)
    taken, left = list[int](), seats.to_dict()
    for key, label, count in free[["key", "label", "rows"]].itertuples(index=False):
        if count <= left[label]:
            left[label] -= count
            taken.append(key)
    if not taken:
        few = f"{len(sentences)} different sentences of {len(seats)} labels are too few to split off"
        advice = f"data.{split}_fraction = {fraction}; raise it, or name a file in data.{split}"
        raise DataError(f"{_first(rows)}: {few} {advice}.")
    mask: NDArray[np.bool_] = table["key"].isin(taken).to_numpy()
    return mask


def _fold(rows: pd.DataFrame, data: Data) -> NDArray[np.bool_]:
    """Marks the rows of `data.fold`: shuffled sentences, label by label, go to the fold that has the fewest rows.

    Without `data.count_repeats` they go to the folds in turn. A sentence stays in train if train would lose its label,
    such as the only sentence of a label.
    """
    table = pd.DataFrame({"key": rows["key"].to_numpy(), "label": rows["label"].cat.codes.to_numpy()})
    sentences = table.sample(frac=1, random_state=data.split_seed).drop_duplicates("key")
    if len(sentences) < data.folds:
        few = f"{len(sentences)} different sentences make no {data.folds} folds"
        raise DataError(f"{_first(rows)}: {few}; lower data.folds.")
    keys = sentences.sort_values("label", kind="stable")["key"]
    sizes = table["key"].value_counts().loc[keys] if data.count_repeats else [1] * len(keys)
    folds, chosen = [(0, fold) for fold in range(data.folds)], list[int]()
    for key, size in zip(keys, sizes, strict=True):
        # of equally large folds the first: in turn, if no sentence is repeated
        _, fold = heapreplace(folds, (folds[0][0] + size, folds[0][1]))
        if fold == data.fold:
            chosen.append(key)
    in_fold = table["key"].isin(chosen)
    lost = ~table["label"].isin(table["label"][~in_fold])
    mask: NDArray[np.bool_] = (in_fold & ~table["key"].isin(table["key"][lost])).to_numpy()
    if not mask.any():
        where = f"{_first(rows)}: fold {data.fold} of {data.folds}"
        raise DataError(f"{where} has no sentence that train can spare; lower data.folds.")
    return mask


def _seats(sizes: "pd.Series[int]", free: "pd.Series[int]", fraction: float) -> "pd.Series[int]":
    """Number of rows to take of each label: `fraction` of each, rounded so that their sum is right.

    Largest remainders are rounded up first (Hamilton's apportionment), and no label gives more than are `free`.
    """
    quotas = sizes.sort_index() * fraction
    most = free.reindex(quotas.index, fill_value=0)
    seats = quotas.astype(int).where(quotas < most, most)
    remainders = (quotas - seats)[seats < most].sort_values(ascending=False, kind="stable")
    seats.loc[remainders.index[: max(round(quotas.sum()) - int(seats.sum()), 0)]] += 1
    return seats
