"""Models in MLflow: logged to classify raw text, registered by name, one of them with the alias `champion`."""

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from bilstm_attention.errors import DataError, UserError
from bilstm_attention.evaluation.metrics import compare, signed_score
from bilstm_attention.tracking.environment import sha256
from bilstm_attention.tracking.store import error_line, open_store, shown_uri

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel as MlflowModel

CHAMPION = "champion"
EVIDENCE = "promoted"  # tag of a version: when and why it became the champion
DEV_ANSWERS = "dev_predictions.csv"  # artifact of a run: dev predictions of each seed, by which versions are compared
DEV_DIGEST = "dev.sha256"  # tag of a version: the dev sentences of its score
MODEL_DIGEST = "model.sha256"
SERVING_PACKAGES = ("mlflow", "keras", "tensorflow", "numpy", "pandas", "pyarrow", "pydantic", "ruamel.yaml", "rich")
# limits of a request, unless a model is loaded with another `model_config`
SERVING_LIMITS = {"max_rows": 5000, "max_characters": 100_000}


@dataclass(frozen=True)
class LoggedModel:
    """A model to log with a run and to register, see `log_model`.

    Args:
        files: by name, what `serving.classifier.load_folder` reads.
        example: a sentence that it classifies.
        name: in the registry.
        tags: of the version.
    """

    files: Mapping[str, Path]
    example: str
    name: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Version:
    """A version of the registered model.

    Args:
        number: of the version.
        run: id of its run.
        run_name: name of its run.
        monitor: the dev score by which it is judged.
        dev: that score, in percent (a loss as it is): the mean over the seeds of the run.
        sentences: digest of the dev sentences of the score.
    """

    number: int
    run: str
    run_name: str
    monitor: str
    dev: float
    sentences: str

    def __str__(self) -> str:
        digits = 4 if self.monitor == "loss" else 2
        return f"version {self.number}, {self.run_name}, run {self.run}: dev {self.monitor} {self.dev:.{digits}f}"


def dev_digest(predictions: pd.DataFrame) -> str:
    """Digest of dev sentences by `id` and `gold`, in any order: scores on other sentences do not compare."""
    rows = sorted(zip(predictions["id"].astype(str), predictions["gold"], strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def log_model(client: Any, experiment: str, run_id: str, model: LoggedModel) -> None:
    """Logs a model with a run, unless the run has it, and registers it, unless it is registered."""
    digest = sha256(model.files["model.keras"])
    logged = [each for each in _logged_models(client, run_id) if each.tags.get(MODEL_DIGEST) == digest]
    whole = [each for each in logged if _is_ready(each)]
    for cut_off in (each for each in logged if not _is_ready(each)):
        client.delete_logged_model(cut_off.model_id)
    model_id = whole[0].model_id if whole else _log(experiment, run_id, model, digest)
    if not client.search_registered_models(f"name = '{model.name}'"):
        client.create_registered_model(model.name)
    versions = client.search_model_versions(f"name = '{model.name}' and run_id = '{run_id}'")
    source = f"models:/{model_id}"
    if source not in [version.source for version in versions]:
        client.create_model_version(model.name, source, run_id, dict(model.tags), model_id=model_id)


def _log(experiment: str, run_id: str, model: LoggedModel, digest: str) -> str:
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
                # if params ask for attention
                ColSpec(Array(DataType.string), "tokens", required=False),
                ColSpec(Array(DataType.double), "weights", required=False),
            ]
        ),
        params=ParamSchema([ParamSpec("attention", DataType.boolean, default=False)]),
    )
    mlflow.set_experiment(experiment_id=experiment)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "classifier"
        folder.mkdir()
        for name, file in model.files.items():
            shutil.copy(file, folder / name)
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
            input_example=pd.DataFrame({"text": [model.example]}),
        )
    return str(logged.model_id)


def _logged_models(client: Any, run_id: str) -> list["MlflowModel"]:
    """The models of a run, the newest first."""
    return list(
        client.search_logged_models(
            [client.get_run(run_id).info.experiment_id],
            f"source_run_id = '{run_id}'",
            order_by=[{"field_name": "creation_timestamp", "ascending": False}],
        )
    )


def _is_ready(model: "MlflowModel") -> bool:
    from mlflow.entities import LoggedModelStatus

    return bool(model.status == LoggedModelStatus.READY)


def fetch_model(source: str, folder: Path) -> Path:
    """Downloads a logged model.

    Args:
        source: id of its run, or an address of MLflow, for example `models:/sample@champion`.
        folder: where to.

    Returns:
        what `serving.classifier.load_folder` reads.

    Raises:
        UserError: the store has no such model, or does not answer.
    """
    import mlflow
    from mlflow.models import Model

    try:
        client = open_store()
        models = [] if ":/" in source else [each for each in _logged_models(client, source) if _is_ready(each)]
        address = f"models:/{models[0].model_id}" if models else source
        whole = Path(mlflow.artifacts.download_artifacts(address, dst_path=str(folder)))
        return whole / str(Model.load(whole).flavors["python_function"]["data"])
    except Exception as error:
        raise UserError(f"{source}: {shown_uri()} has no such model: {error_line(error)}.") from error


def promote(name: str, source: str, monitor: str, if_better: bool) -> None:
    """Gives a version of a registered model the alias `champion`, and a tag with the evidence; prints both.

    Args:
        name: of the registered model.
        source: id of a run, or `best`: the version with the best dev score on the champion's dev sentences.
        monitor: the score for `best` if there is no champion yet.
        if_better: only if its dev score is better than the champion's.

    Raises:
        UserError: no such version, or, with `if_better`, one that cannot be compared with the champion.
    """
    client = open_store()
    versions = _versions(client, name)
    aliases = client.get_registered_model(name).aliases
    current = next((version for version in versions if str(version.number) == str(aliases.get(CHAMPION))), None)
    version = _select(name, versions, source, monitor, current)
    print(version)
    if current is not None and current.number == version.number:
        print(f"{name}: it is the champion already.")
        return
    evidence = "first champion"
    if current is not None:
        print(f"{current}, the present champion")
        better, evidence = False, ""
        try:
            better, evidence = _compare(client, version, current)
        except UserError as error:
            if if_better:
                raise
            evidence = str(error)
        print(f"difference: {evidence}")
        if if_better and not better:
            print(f"{name}: version {current.number} stays champion.")
            return
        evidence = f"against version {current.number}: {evidence}"
    elif if_better and CHAMPION in aliases:
        raise UserError(f"{name}: version {aliases[CHAMPION]}, the champion, has no dev score; leave --if-better out.")
    client.set_registered_model_alias(name, CHAMPION, str(version.number))
    when = datetime.now(UTC).isoformat(timespec="seconds")
    client.set_model_version_tag(name, str(version.number), EVIDENCE, f"{when}, {evidence}")
    print(f"{name}: version {version.number} is champion; models:/{name}@{CHAMPION} serves it.")


def _versions(client: Any, name: str) -> list[Version]:
    """Versions that this project registered, the oldest first."""
    registered = [each for each in client.search_model_versions(f"name = '{name}'") if "monitor" in each.tags]
    if not registered:
        raise UserError(f"{name}: no model of this name is registered; `dvc repro` registers one.")
    versions = [
        Version(
            number=int(each.version),
            run=each.run_id,
            run_name=each.tags["run"],
            monitor=each.tags["monitor"],
            dev=float(each.tags["dev"]),
            sentences=each.tags.get(DEV_DIGEST, ""),
        )
        for each in registered
    ]
    return sorted(versions, key=lambda version: version.number)


def _select(name: str, versions: list[Version], source: str, monitor: str, champion: Version | None) -> Version:
    if source == "best":
        like = champion or next((each for each in reversed(versions) if each.monitor == monitor), None)
        if like is None:
            raise UserError(f"{name}: no version is judged by {monitor}; name a run.")
        alike = [each for each in versions if (each.monitor, each.sentences) == (like.monitor, like.sentences)]
        return max(alike, key=lambda each: signed_score(each.monitor, each.dev))
    matches = [each for each in versions if each.run == source]
    if not matches:
        legal = ", ".join(f"{each.run} ({each.run_name})" for each in versions[-5:])
        raise UserError(f"{source}: no version of {name} has this run. Legal: best, or a run: {legal}.")
    return matches[-1]


def _compare(client: Any, version: Version, champion: Version) -> tuple[bool, str]:
    """Whether a version has a better dev score than the champion, and the difference with a test, in words.

    Raises:
        UserError: other scores, or other dev sentences.
    """
    if version.monitor != champion.monitor:
        raise UserError(
            f"version {version.number} is judged by {version.monitor}, version {champion.number} by"
            f" {champion.monitor}: they cannot be compared."
        )
    first, second = (_dev_answers(client, each).set_index("id").sort_index() for each in (version, champion))
    if not first[["gold"]].equals(second[["gold"]]):
        raise UserError(
            f"version {version.number} and version {champion.number} were judged on different dev sentences: their"
            " scores cannot be compared."
        )
    difference = signed_score(version.monitor, version.dev) - signed_score(version.monitor, champion.dev)
    if version.monitor == "loss":
        return difference > 0, f"{-difference:+.4f}, without a test, since a loss compares no labels"
    seeds = min(len(first.columns), len(second.columns)) - 1
    a, b = (table.drop(columns="gold").iloc[:, :seeds].T.to_numpy().tolist() for table in (first, second))
    p = compare(first["gold"].tolist(), a, b, version.monitor)
    by = f"{seeds} seed{'s' if seeds > 1 else ''} each, {len(first)} dev sentences"
    return difference > 0, f"{difference:+.2f}, p {p:.3f} by approximate randomisation ({by})"


def _dev_answers(client: Any, version: Version) -> pd.DataFrame:
    with TemporaryDirectory() as folder:
        try:
            file = client.download_artifacts(version.run, DEV_ANSWERS, folder)
        except Exception as error:
            raise DataError(f"run {version.run} has no {DEV_ANSWERS}: {error_line(error)}.") from error
        # a label may be NA or None
        return pd.read_csv(file, dtype=str, keep_default_na=False)
