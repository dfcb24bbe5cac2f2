"""Models in MLflow: logged so that they answer raw text, registered by name, and one of them promoted to champion."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pandas as pd

from bilstm_attention.errors import DataError, UserError
from bilstm_attention.evaluation.metrics import compare, signed_score
from bilstm_attention.tracking.environment import sha256
from bilstm_attention.tracking.store import MODEL_DIGEST, Store, Tracker, reason_of, shown_uri

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

CHAMPION = "champion"
# Dev answers of each seed, an artifact of the run: what two versions are compared by.
DEV_ANSWERS = "dev_predictions.csv"
# Tag of a version: the dev sentences that it was judged on.
DEV_DIGEST = "dev.sha256"
SERVING_PACKAGES = ("mlflow", "keras", "tensorflow", "numpy", "pandas", "pydantic", "ruamel.yaml", "rich")
# what a request may hold, unless a model is loaded with another `model_config`
SERVING_LIMITS = {"max_rows": 5000, "max_characters": 100_000}


@dataclass(frozen=True)
class Version:
    """A registered model.

    Args:
        number: of the version.
        run: the run that it is of.
        run_name: how that is called.
        monitor: the dev score that it is judged by.
        answers: the artifact of its run that holds its answers on dev.
        dev: that score, in percent (a loss as it is): the mean over the seeds of the run.
        sentences: the digest of the dev sentences that it was judged on.
        champion: whether it is the one that is served.
    """

    number: int
    run: str
    run_name: str
    monitor: str
    answers: str
    dev: float
    sentences: str
    champion: bool


def dev_digest(answers: pd.DataFrame) -> str:
    """The digest of dev sentences by their `id` and `gold`, in whatever order: scores on others do not compare."""
    rows = sorted(zip(answers["id"].astype(str), answers["gold"], strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def log_model(tracker: Tracker, run_id: str, folder: Path, example: str, name: str, tags: Mapping[str, str]) -> None:
    """Logs a model that takes raw text, unless the run has it, and registers it, unless it is.

    What is left of an attempt that was cut off is deleted.

    Args:
        tracker: of the experiment of the run.
        run_id: run that the model belongs to.
        folder: what `serving.load_folder` reads.
        example: a sentence; MLflow classifies it to see that the model can be served, and shows it with the model.
        name: in the registry.
        tags: of the version.
    """
    digest = sha256(folder / "model.keras")
    client = tracker.client
    for left in _models(tracker, run_id, ready=False):
        if left.tags.get(MODEL_DIGEST) == digest:
            client.delete_logged_model(left.model_id)
    had = [model.model_id for model in _models(tracker, run_id) if model.tags.get(MODEL_DIGEST) == digest]
    model = had[0] if had else _log(tracker, run_id, folder, example, digest)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    source = f"models:/{model}"
    if source not in [version.source for version in versions]:
        client.create_model_version(name, source, run_id, dict(tags), model_id=model)


def _log(tracker: Tracker, run_id: str, folder: Path, example: str, digest: str) -> str:
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Map

    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "text")]),
        outputs=Schema(
            [
                ColSpec(DataType.string, "label"),
                ColSpec(DataType.double, "score"),
                ColSpec(Map(DataType.double), "probabilities"),
                # where params ask for attention
                ColSpec(Array(DataType.string), "tokens", required=False),
                ColSpec(Array(DataType.double), "weights", required=False),
            ]
        ),
        params=ParamSchema([ParamSpec("attention", DataType.boolean, default=False)]),
    )
    mlflow.set_experiment(experiment_id=tracker.experiment)
    # not within mlflow.start_run: a failure there would end the finished run as FAILED
    logged = Model.log(
        artifact_path=None,
        name="model",
        flavor=mlflow.pyfunc,
        run_id=run_id,
        tags={MODEL_DIGEST: digest},
        loader_module="bilstm_attention.serving.classifier",
        data_path=str(folder),
        model_config=SERVING_LIMITS,
        code_paths=[str(Path(__file__).parents[1])],
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in SERVING_PACKAGES],
        signature=signature,
        input_example=pd.DataFrame({"text": [example]}),
    )
    return str(logged.model_id)


def _models(store: Store, run_id: str, ready: bool = True) -> list["LoggedModel"]:
    """The models of a run that are whole, or those that are not, the newest first."""
    from mlflow.entities import LoggedModelStatus

    found = store.client.search_logged_models(
        [store.client.get_run(run_id).info.experiment_id],
        f"source_run_id = '{run_id}'",
        order_by=[{"field_name": "creation_timestamp", "ascending": False}],
    )
    return [model for model in found if (model.status == LoggedModelStatus.READY) == ready]


def fetch_model(wanted: str, folder: Path) -> Path:
    """Fetches a logged model.

    Args:
        wanted: the id of its run, or an address of MLflow, for instance `models:/sample@champion`.
        folder: where to put it.

    Returns:
        what `serving.load_folder` reads.

    Raises:
        UserError: the store has no such model, or does not answer.
    """
    import mlflow
    from mlflow.models import Model

    try:
        store = Store()
        models = [] if ":/" in wanted else _models(store, wanted)
        address = f"models:/{models[0].model_id}" if models else wanted
        whole = Path(mlflow.artifacts.download_artifacts(address, dst_path=str(folder)))
        return whole / str(Model.load(whole).flavors["python_function"]["data"])
    except Exception as error:
        raise UserError(f"{wanted}: no model that {shown_uri()} gives: {reason_of(error)}.") from error


class Registry:
    """The versions of one registered model.

    Args:
        store: that has them.
        name: of the model.
    """

    def __init__(self, store: Store, name: str):
        self.client, self.name = store.client, name

    def versions(self) -> list[Version]:
        """All of them, the oldest first.

        Raises:
            UserError: none is registered.
        """
        champion = self.champion()
        # others of this name may have been registered by hand
        found = [each for each in self.client.search_model_versions(f"name = '{self.name}'") if "monitor" in each.tags]
        if not found:
            raise UserError(f"{self.name}: no model of this name is registered; `dvc repro` registers one.")
        versions = [
            Version(
                number=int(version.version),
                run=version.run_id,
                run_name=version.tags["run"],
                monitor=version.tags["monitor"],
                answers=version.tags.get("answers", DEV_ANSWERS),
                dev=float(version.tags["dev"]),
                sentences=version.tags.get(DEV_DIGEST, ""),
                champion=int(version.version) == champion,
            )
            for version in found
        ]
        return sorted(versions, key=lambda version: version.number)

    def champion(self) -> int | None:
        """The version that is served; None: there is none yet."""
        registered = self.client.search_registered_models(f"name = '{self.name}'")
        number = registered[0].aliases.get(CHAMPION) if registered else None
        return int(number) if number else None

    def find(self, wanted: str, monitor: str) -> Version:
        """The version of a run, by its id, or `best`, the one with the best dev score.

        The best is one of those that were judged by the same score on the same sentences as the champion is, or, where
        there is none, as the newest is.

        Args:
            wanted: which.
            monitor: the score by which `best` is found where there is no champion.

        Raises:
            UserError: there is none.
        """
        versions = self.versions()
        if wanted == "best":
            like = next((version for version in versions if version.champion), None)
            like = like or next((version for version in reversed(versions) if version.monitor == monitor), None)
            if like is None:
                raise UserError(f"{self.name}: no version is judged by {monitor}; name a run.")
            by = like.monitor
            alike = [each for each in versions if (each.monitor, each.sentences) == (by, like.sentences)]
            return max(alike, key=lambda version: signed_score(by, version.dev))
        of_run = [version for version in versions if version.run == wanted]
        if not of_run:
            legal = ", ".join(f"{version.run} ({version.run_name})" for version in versions[-5:])
            raise UserError(f"{wanted}: no version of {self.name} is of this run. Legal: best, or a run: {legal}.")
        return of_run[-1]

    def better(self, one: Version, other: Version) -> tuple[bool, str]:
        """Whether a version has a better dev score than another, and by how much, with a test, in words.

        Raises:
            UserError: they were not judged by one score on the same sentences.
        """
        if one.monitor != other.monitor:
            raise UserError(
                f"version {one.number} is judged by {one.monitor}, version {other.number} by {other.monitor}: they"
                " cannot be compared."
            )
        answers = [self._answers(version) for version in (one, other)]
        first, second = (table.set_index("id").sort_index() for table in answers)
        if not first[["gold"]].equals(second[["gold"]]):
            raise UserError(
                f"version {one.number} and version {other.number} were judged on different dev sentences: their scores"
                " cannot be compared."
            )
        difference = signed_score(one.monitor, one.dev) - signed_score(one.monitor, other.dev)
        said = f"{difference:+.2f}" if one.monitor != "loss" else f"{-difference:+.4f}"
        if one.monitor == "loss":
            return difference > 0, f"{said}, without a test, since a loss compares no labels"
        seeds = min(len(first.columns), len(second.columns)) - 1
        a, b = (table.drop(columns="gold").iloc[:, :seeds].T.to_numpy().tolist() for table in (first, second))
        p = compare(first["gold"].tolist(), a, b, one.monitor)
        of = "" if len(first.columns) == len(second.columns) else f" of {seeds} seed{'s' if seeds > 1 else ''} each"
        return difference > 0, f"{said}, p {p:.3f} by approximate randomisation{of} over {len(first)} dev sentences"

    def promote(self, version: Version) -> None:
        """Makes a version the champion."""
        self._reign(version.number, "promoted")

    def rollback(self) -> int:
        """Makes the champion before the present one champion again; returns the number of its version.

        Versions that were deleted since are passed over. From a champion that another tool made, the way back leads to
        the last that was promoted here.

        Raises:
            UserError: there was none.
        """
        self.versions()
        there = {int(each.version) for each in self.client.search_model_versions(f"name = '{self.name}'")}
        present = self.champion()
        before = next((number for number in reversed(self._line()) if number in there and number != present), None)
        if before is None:
            raise UserError(f"{self.name}: there is no champion before the present one.")
        self._reign(before, "rolled back to")
        return before

    def history(self) -> list[str]:
        """Every change of champion, the first one first."""
        return [said for _, said in sorted(self._events().items())]

    def _reign(self, number: int, how: str) -> None:
        now = datetime.now(UTC)
        # the record first: an alias without one could not be taken back
        event = f"{CHAMPION}.{now:%Y%m%dT%H%M%S.%f}"
        self.client.set_registered_model_tag(
            self.name, event, f"{now.isoformat(timespec='seconds')} version {number} {how}"
        )
        try:
            self.client.set_registered_model_alias(self.name, CHAMPION, str(number))
        except Exception:
            self.client.delete_registered_model_tag(self.name, event)
            raise

    def _events(self) -> dict[str, str]:
        tags = self.client.get_registered_model(self.name).tags
        return {tag: said for tag, said in tags.items() if tag.startswith(f"{CHAMPION}.")}

    def _line(self) -> list[int]:
        """The champions that have not been taken back, the last promoted one last."""
        line: list[int] = []
        for said in self.history():
            _, _, number, *how = said.split(" ", 3)
            if how != ["promoted"]:
                while line and line[-1] != int(number):
                    line.pop()
            if not line or line[-1] != int(number):
                line.append(int(number))
        return line

    def _answers(self, version: Version) -> pd.DataFrame:
        with TemporaryDirectory() as folder:
            try:
                file = self.client.download_artifacts(version.run, version.answers, folder)
            except Exception as error:
                raise DataError(f"run {version.run} has no {version.answers}: {reason_of(error)}.") from error
            # a label may be NA or None
            return pd.read_csv(file, dtype=str, keep_default_na=False)
