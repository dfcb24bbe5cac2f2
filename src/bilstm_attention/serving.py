"""Raw text in, label and probability out; MLflow loads this module to serve a logged model."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bilstm_attention.corpus.batches import Rows
from bilstm_attention.corpus.formats import marking_fault
from bilstm_attention.corpus.tokens import MARKERS, Vocabulary, encode_examples, tokenize
from bilstm_attention.errors import DataError, listing
from bilstm_attention.params import Data, load_params

EMPTY_ENTITIES = {MARKERS[:2], MARKERS[2:]}


class TextClassifier:
    """A trained classifier that takes sentences as they are written.

    Args:
        model: the Keras classifier.
        vocabulary: words by id.
        labels: class names in the order of their numbers.
        data: how sentences were tokenised in training.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary, labels: Sequence[str], data: Data):
        self.model, self.vocabulary, self.labels, self.data = model, vocabulary, list(labels), data

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classifies sentences; the method that MLflow calls.

        Args:
            model_input: a table with a column `text`, or a list of strings; relation sentences mark both entities as
                `<e1>..</e1>` and `<e2>..</e2>`.
            params: not used.

        Returns:
            columns `label` and `probability`, one row per sentence.

        Raises:
            DataError: a table without `text`; no text, empty sentences, or entities not marked, by row.
        """
        if isinstance(model_input, pd.DataFrame):
            if "text" not in model_input:
                raise DataError(f"columns {list(model_input)}: a table of sentences has a column `text`.")
            model_input = model_input["text"]
        probabilities = self.probabilities(list(model_input))
        best = probabilities.argmax(axis=1)
        return pd.DataFrame(
            {"label": [self.labels[number] for number in best], "probability": probabilities.max(axis=1).astype(float)}
        )

    def probabilities(self, texts: Sequence[str]) -> Any:
        """Probabilities, float32 `(N, C)`, of every class for N sentences."""
        from bilstm_attention.experiment.prediction import predict

        return predict(self.model, self.rows(texts)) if texts else np.empty((0, len(self.labels)), np.float32)

    def rows(self, texts: Sequence[str]) -> Rows:
        """Sentences as the network reads them."""
        return self.encoded(self.tokens(texts))

    def encoded(self, rows: Sequence[Sequence[str]]) -> Rows:
        """Sentences of `tokens`, numbered."""
        return Rows.of([self.vocabulary.encode(row) for row in rows], np.zeros(len(rows), np.int32))

    def tokens(self, texts: Sequence[str]) -> list[list[str]]:
        """Sentences as words, cut and marked as in training."""
        faults = [f"row {number}: {fault}" for number, text in enumerate(texts) if (fault := self._fault(text))]
        if faults:
            raise DataError(listing(faults))
        rows = [tokenize(text, self.data.tokens) for text in texts]
        if all(map(self._as_it_is, rows)):
            # a table costs a sentence alone about as much time as its forward pass
            return rows
        sources = [f"row {number}" for number in range(len(texts))]
        examples = pd.DataFrame({"id": sources, "text": list(texts), "label": "", "source": sources})
        return list(encode_examples(examples, self.data)["tokens"])

    def _as_it_is(self, row: Sequence[str]) -> bool:
        """Whether `encode_examples` has nothing to cut and nothing to complain of."""
        return 0 < len(row) <= self.data.tokens.max_length and EMPTY_ENTITIES.isdisjoint(pairwise(row))

    def _fault(self, text: Any) -> str:
        if not isinstance(text, str):
            return f"{text!r} is no text."
        if not text.strip():
            return "an empty sentence."
        wrong = marking_fault(text) if self.data.relational else ""
        return wrong and f"{wrong}; a relation sentence marks both entities as <e1>..</e1> and <e2>..</e2>."


def load_folder(folder: Path) -> TextClassifier:
    """Reads `model.keras`, `vocabulary.txt`, `labels.json` and `params.yaml` from a folder."""
    from bilstm_attention.terminal import start_tensorflow

    start_tensorflow()
    from bilstm_attention.network.classifier import load_classifier

    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    vocabulary = Vocabulary.load(folder / "vocabulary.txt")
    return TextClassifier(
        load_classifier(folder / "model.keras"), vocabulary, labels, load_params(folder / "params.yaml").data
    )


def _load_pyfunc(path: str) -> TextClassifier:
    """What MLflow calls to load a logged model."""
    return load_folder(Path(path))
