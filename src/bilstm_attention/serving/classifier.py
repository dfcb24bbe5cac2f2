"""Classifies raw text: label, probabilities and attention; MLflow loads this module to serve a logged model."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bilstm_attention.config import Data, Params, load_params
from bilstm_attention.console import start_tensorflow
from bilstm_attention.data.dataset import Rows, load_labels, load_vocabulary
from bilstm_attention.data.relations import MARKING, marking_fault
from bilstm_attention.data.tokens import EMPTY_ENTITIES, Vocabulary, encode_examples, tokenize
from bilstm_attention.errors import DataError, join_lines
from bilstm_attention.evaluation.calibration import scale


class TextClassifier:
    """A trained Keras classifier of raw sentences; `labels` are in the order of their numbers.

    Probabilities are scaled by the `temperature`, see `evaluation.calibration.scale`; labels do not depend on it.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary, labels: Sequence[str], data: Data, temperature: float = 1.0):
        self.model, self.vocabulary, self.labels, self.data = model, vocabulary, list(labels), data
        self.temperature = temperature

    def answer(self, texts: Sequence[str], attention: bool = False, places: Sequence[str] = ()) -> pd.DataFrame:
        """Classifies N sentences; a relation sentence marks both entities, as `<e1>..</e1>` and `<e2>..</e2>`.

        Args:
            texts: the sentences.
            attention: whether to add tokens and their weights.
            places: what errors call the sentences; by default their rows, counted from 0.

        Returns:
            a row per sentence: `label`, the most probable; `score`, its probability; `probabilities` by label; with
            `attention` also `tokens`, T words as the model reads them, and `weights`, T numbers that sum to 1: the mean
            of a model's several distributions.

        Raises:
            DataError: sentences that are empty, no text, or without marked entities, by row.
        """
        from bilstm_attention.model.predict import predict, read_attention

        tokens = self.tokens(texts, places)
        rows = Rows.from_tokens(tokens, self.vocabulary)
        probabilities, weights = np.empty((0, len(self.labels)), np.float32), list[Any]()
        if texts:
            probabilities, weights = read_attention(self.model, rows) if attention else (predict(self.model, rows), [])
        numbers, probabilities = probabilities.argmax(axis=1), scale(probabilities, self.temperature)
        answers = pd.DataFrame(
            {
                "label": pd.Series([self.labels[number] for number in numbers], dtype="str"),
                "score": probabilities.max(axis=1).astype(float),
                "probabilities": [dict(zip(self.labels, row, strict=True)) for row in probabilities.tolist()],
            }
        )
        if attention:
            answers["tokens"] = tokens
            answers["weights"] = [
                np.reshape(row, (-1, len(words))).mean(axis=0, dtype=float).tolist()
                for row, words in zip(weights, tokens, strict=True)
            ]
        return answers

    def examples(self, texts: Sequence[str]) -> tuple[pd.DataFrame, Rows]:
        """Sentences as a prepared split has them, `tokens` and an empty `label`, and as numbers."""
        tokens = self.tokens(texts)
        return pd.DataFrame({"tokens": tokens, "label": ""}), Rows.from_tokens(tokens, self.vocabulary)

    def tokens(self, texts: Sequence[str], places: Sequence[str] = ()) -> list[list[str]]:
        """Sentences as words, cut and marked as in training; see `answer` for `places`."""
        places = places or [f"row {number}" for number in range(len(texts))]
        pairs = zip(places, texts, strict=True)
        faults = [f"{place}: {fault}" for place, text in pairs if (fault := self._fault(text))]
        if faults:
            raise DataError(join_lines(faults))
        rows = [tokenize(text, self.data.tokens) for text in texts]
        if all(map(self._is_whole, rows)):
            # for a single sentence, making a table takes about as long as the forward pass
            return rows
        examples = pd.DataFrame({"id": places, "text": list(texts), "label": "", "source": places})
        return list(encode_examples(examples, self.data)["tokens"])

    def _is_whole(self, row: Sequence[str]) -> bool:
        """Whether `encode_examples` would neither change the row nor refuse it."""
        return 0 < len(row) <= self.data.tokens.max_length and EMPTY_ENTITIES.isdisjoint(pairwise(row))

    def _fault(self, text: Any) -> str:
        if not isinstance(text, str):
            return f"{text!r} is no text."
        if not text.strip():
            return "an empty sentence."
        fault = marking_fault(text) if self.data.relational else ""
        return fault and f"{fault}; {MARKING}."


def load_folder(folder: Path) -> TextClassifier:
    """Reads `model.keras`, `vocabulary.txt`, `labels.json`, `params.yaml` and, if there, `calibration.json`."""
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    vocabulary = Vocabulary.load(folder / "vocabulary.txt")
    calibration, data = folder / "calibration.json", load_params(folder / "params.yaml").data
    temperature = json.loads(calibration.read_text(encoding="utf-8"))["temperature"] if calibration.is_file() else 1.0
    start_tensorflow()
    from bilstm_attention.model.classifier import load_classifier

    return TextClassifier(load_classifier(folder / "model.keras"), vocabulary, labels, data, temperature)


def load_seed(params: Params, seed: int) -> TextClassifier:
    """The classifier of one seed of this checkout, with a warning if it is not up to date.

    Raises:
        DataError: the seed is not trained, or on other labels or words than those of this checkout.
    """
    from bilstm_attention.evaluation.results import check_numbering, read_temperature, seed_file
    from bilstm_attention.tracking.environment import warn_if_stale

    file, temperature = seed_file(seed, "model.keras"), read_temperature(seed)
    check_numbering(seed)
    warn_if_stale(params.train.seeds)
    start_tensorflow()
    from bilstm_attention.model.classifier import load_classifier
    from bilstm_attention.training.fit import use_threads

    use_threads()
    return TextClassifier(load_classifier(file), load_vocabulary(), load_labels(), params.data, temperature)


class Served:
    """A classifier as MLflow calls it; a request that cannot be answered gets status 400 from MLflow's server.

    A request has at most `max_rows` sentences, and a sentence `max_characters`.
    """

    def __init__(self, classifier: TextClassifier, max_rows: int, max_characters: int):
        self.classifier, self.max_rows, self.max_characters = classifier, max_rows, max_characters

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Answers the column `text` of a table, see `TextClassifier.answer`; `params` may set `attention`."""
        from mlflow.exceptions import MlflowException

        try:
            texts = self._checked(model_input)
            return self.classifier.answer(texts, bool(params and params.get("attention")))
        except DataError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _checked(self, model_input: pd.DataFrame) -> list[Any]:
        if "text" not in model_input:
            raise DataError(f"columns {list(model_input)}: a table of sentences has a column `text`.")
        # a table has NaN for null
        texts = [None if isinstance(text, float) else text for text in model_input["text"]]
        if len(texts) > self.max_rows:
            raise DataError(
                f"{len(texts):,} rows: at most {self.max_rows:,} at once; send them in parts, or load the model with"
                f" model_config={{'max_rows': {len(texts)}}}."
            )
        for number, text in enumerate(texts):
            if isinstance(text, str) and len(text) > self.max_characters:
                limit = f"a sentence has at most {self.max_characters:,}"
                raise DataError(f"row {number}: {len(text):,} characters; {limit}.")
        return texts


def _load_pyfunc(path: str, model_config: Mapping[str, int]) -> Served:
    """The loader that MLflow calls for a logged model."""
    return Served(load_folder(Path(path)), **model_config)
