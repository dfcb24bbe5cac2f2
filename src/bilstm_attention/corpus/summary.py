"""Counts what `prepare` made: rows, labels, lengths, vocabulary, and the sentences that stand twice."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pandas as pd

from bilstm_attention.corpus.splits import sentence_key
from bilstm_attention.corpus.tokens import count_words


def summarise(examples: Mapping[str, pd.DataFrame], encoded: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Counts of the splits, ready for JSON: integers and strings alone.

    Args:
        examples: the splits as `splits.make_splits` returns them, by name, train first.
        encoded: the same splits as `tokens.encode_examples` returns them.

    Returns:
        `splits`: for each `rows`; `labels`, rows by label; `length`, tokens of a row before cutting, with its markers
        (`min`, `p50`, `p95`, `max`); `truncated`, rows cut; `tokens` and `types`, running and different words after
        cutting, without markers. `duplicates`: `a-a` counts the rows of a whose sentence an earlier row of a has, `a-b`
        the rows of b whose sentence stands in a.
    """
    keys = {name: split["text"].map(sentence_key) for name, split in examples.items()}
    within = {f"{name}-{name}": int(key.duplicated().sum()) for name, key in keys.items()}
    across = {f"{a}-{b}": int(keys[b].isin(keys[a]).sum()) for a, b in combinations(keys, 2)}
    return {
        "splits": {name: _split_summary(split) for name, split in encoded.items()},
        "duplicates": within | across,
    }


def _split_summary(encoded: pd.DataFrame) -> dict[str, Any]:
    words = count_words(encoded["tokens"])
    # "lower" keeps a quantile a length that some row has
    quantiles = encoded["length"].quantile([0, 0.5, 0.95, 1], interpolation="lower")
    return {
        "rows": len(encoded),
        "labels": {str(label): int(n) for label, n in encoded["label"].value_counts().sort_index().items()},
        "length": dict(zip(("min", "p50", "p95", "max"), map(int, quantiles), strict=True)),
        "truncated": int((encoded["length"] > encoded["tokens"].map(len)).sum()),
        "tokens": int(words["count"].sum()),
        "types": len(words),
    }
