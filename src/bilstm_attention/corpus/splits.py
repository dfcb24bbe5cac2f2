"""Makes the splits that a corpus does not bring, by sentence text and stratified by label, and checks the labels."""

import pandas as pd

from bilstm_attention.corpus.tokens import MARKER
from bilstm_attention.errors import DataError, listing, nearest
from bilstm_attention.params import Data


def sentence_key(text: str) -> str:
    """What two examples share that have the same sentence: its text without markers, whitespace and case.

    >>> sentence_key("The<e1>staff</e1> of a <e2>shop</e2>.") == sentence_key("the <e2>staff</e2> of <e1>a shop</e1>.")
    True
    """
    return "".join(MARKER.sub("", text).split()).casefold()


def make_splits(
    train: pd.DataFrame, dev: pd.DataFrame | None, test: pd.DataFrame | None, data: Data
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Completes train, dev and test: a missing test is split off train, then a missing dev off the rest.

    Examples with the same `sentence_key` stay on one side of a split made here. Files that the corpus brings are taken
    as they are, even where they share sentences; `summary.summarise` counts those.

    Args:
        train, dev, test: as `formats.read_split` returns them; None where `data` names no file.

    Returns:
        train, dev and test, rows in the order of the files.

    Raises:
        DataError: train has fewer than two labels or is too small to split, or dev or test, given as files, hold labels
            that train does not (listed by file and line).
    """
    if test is None:
        train, test = _split_off(train, "test", data.test_fraction, data.split_seed)
    if dev is None:
        train, dev = _split_off(train, "dev", data.dev_fraction, data.split_seed)
    labels = sorted(train["label"].unique())
    if len(labels) < 2:
        raise DataError(f"{train['source'].iloc[0]}: train has the label {labels[0]!r} alone; a classifier needs two.")
    _check_labels(pd.concat([dev, test]), labels)
    return train, dev, test


def _check_labels(held: pd.DataFrame, labels: list[str]) -> None:
    unknown = held[~held["label"].isin(labels)]
    if len(unknown):
        faults = [
            f"{source}: label {label!r} does not stand in train{nearest(label, labels) or '.'}"
            for source, label in zip(unknown["source"], unknown["label"], strict=True)
        ]
        raise DataError(f"{listing(faults)}\nLabels of train: {', '.join(labels)}.")


def _split_off(examples: pd.DataFrame, split: str, fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Takes a share of the sentences of each label away from `examples`, which keeps an example of every label."""
    keys = examples["text"].map(sentence_key)
    shuffled = pd.DataFrame({"key": keys, "label": examples["label"]}).sample(frac=1, random_state=seed)
    kept = shuffled.drop_duplicates("label")["key"]
    sentences = shuffled.drop_duplicates("key")
    free = sentences[~sentences["key"].isin(kept)]
    seats = _seats(sentences["label"].value_counts(sort=False), free["label"].value_counts(), fraction)
    if not seats.sum():
        raise DataError(
            f"{examples['source'].iloc[0]}: {len(sentences)} different sentences of {len(seats)} labels are too few to"
            f" split off data.{split}_fraction = {fraction}; raise it, or name a file in data.{split}."
        )
    taken = free.groupby("label").cumcount() < free["label"].map(seats)
    away = keys.isin(free["key"][taken])
    return examples[~away].reset_index(drop=True), examples[away].reset_index(drop=True)


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
