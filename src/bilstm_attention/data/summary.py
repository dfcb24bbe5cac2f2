"""Counts what `prepare` made: rows, labels, lengths, vocabulary, and the sentences that stand twice."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilstm_attention.data.splits import SPLITS, Split
from bilstm_attention.data.tokens import SPECIALS


@dataclass
class SplitStats:
    """What is counted of a split while it is written.

    Args:
        words: tokens after cutting, markers among them.
        lengths: tokens of each row before cutting, int32.
        truncated: rows cut.
    """

    words: Counter[str] = field(default_factory=Counter)
    lengths: list[NDArray[np.int32]] = field(default_factory=list)
    truncated: int = 0


def summarize(rows: pd.DataFrame, splits: NDArray[np.int8], tallies: Mapping[Split, SplitStats]) -> dict[str, Any]:
    """Counts of the splits, ready for JSON: integers and strings alone.

    Args:
        rows: those of an `index.Index`.
        splits: of each row, as `splits.make_splits` returns them.
        tallies: by split, in the order of `splits.SPLITS`.

    Returns:
        `splits`: for each `rows`; `labels`, rows by label; `length`, tokens of a row before cutting, with its markers
        (`min`, `p50`, `p95`, `max`); `truncated`, rows cut; `tokens` and `types`, running and different words after
        cutting, without markers. `duplicates`: `a-a` counts the rows of a whose sentence an earlier row of a has, `a-b`
        the rows of b whose sentence stands in a.
    """
    parts = {name: rows[splits == SPLITS.index(name)] for name in tallies}
    within = {f"{name}-{name}": int(part["key"].duplicated().sum()) for name, part in parts.items()}
    across = {f"{a}-{b}": int(parts[b]["key"].isin(parts[a]["key"]).sum()) for a, b in combinations(parts, 2)}
    return {
        "splits": {name: _split_summary(part["label"], tallies[name]) for name, part in parts.items()},
        "duplicates": within | across,
    }


def _split_summary(labels: pd.Series, tally: SplitStats) -> dict[str, Any]:
    words = [count for word, count in tally.words.items() if word not in SPECIALS]
    # "lower" keeps a quantile a length that some row has
    quantiles = pd.Series(np.concatenate(tally.lengths)).quantile([0, 0.5, 0.95, 1], interpolation="lower")
    return {
        "rows": len(labels),
        "labels": {str(label): int(n) for label, n in labels.value_counts().sort_index().items() if n},
        "length": dict(zip(("min", "p50", "p95", "max"), map(int, quantiles), strict=True)),
        "truncated": tally.truncated,
        "tokens": sum(words),
        "types": len(words),
    }
