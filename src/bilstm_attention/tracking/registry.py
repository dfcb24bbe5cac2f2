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
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
EVIDENCE = "promoted"  # tag of a version: when and why it became the champion
DEV_ANSWERS = "dev_predictions.csv"  # artifact of a run: dev predictions of each seed, by which versions are compared
DEV_DIGEST = "dev.sha256"  # tag of a version: the dev sentences of its score
COMPARABLE = ("monitor", DEV_DIGEST)
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


def dev_digest(predictions: pd.DataFrame) -> str:
    """Digest of dev sentences by `id` and `gold`, in any order: scores on other sentences do not compare."""
    rows = sorted(zip(predictions["id"].astype(str), predictions["gold"], strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def log_model(client: Any, experiment: str, run_id: str, model: LoggedModel) -> None:
    """Logs a model with a run, and registers it, each once."""
    digest = sha256(model.files["model.keras"])
    logged = [each for each in _logged_models(client, run_id) if each.tags.get(MODEL_DIGEST) == digest]
    whole = [each.model_id for each in logged if _is_ready(each)]
    for each in logged:
        if each.model_id not in whole:
            client.delete_logged_model(each.model_id)
    model_id = whole[0] if whole else _log(experiment, run_id, model, digest)
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
    registered = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda each: int(each.version))
    # those that this project registered
    versions = [each for each in registered if "monitor" in each.tags]
    if not versions:
        raise UserError(f"{name}: no model of this name is registered; `dvc repro` registers one.")
    number = client.get_registered_model(name).aliases.get(CHAMPION)
    champion = next((each for each in versions if str(each.version) == str(number)), None)
    version = _select(name, versions, source, monitor, champion)
    print(_describe(version))
    if champion is version:
        print(f"{name}: it is the champion already.")
        return
    evidence = "first champion"
    if champion is not None:
        print(f"{_describe(champion)}, the present champion")
        better = False
        try:
            better, evidence = _compare(client, version, champion)
        except UserError as error:
            if if_better:
                raise
            evidence = str(error)
        print(f"difference: {evidence}")
        if if_better and not better:
            print(f"{name}: version {number} stays champion.")
            return
        evidence = f"against version {number}: {evidence}"
    elif if_better and number:
        raise UserError(f"{name}: version {number}, the champion, has no dev score; leave --if-better out.")
    client.set_registered_model_alias(name, CHAMPION, version.version)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    client.set_model_version_tag(name, version.version, EVIDENCE, f"{when}, {evidence}")
    print(f"{name}: version {version.version} is champion; models:/{name}@{CHAMPION} serves it.")


def _describe(version: "ModelVersion") -> str:
    tags = version.tags
    score = f"{tags['monitor']} {float(tags['dev']):.{4 if tags['monitor'] == 'loss' else 2}f}"
    return f"version {version.version}, {tags['run']}, run {version.run_id}: dev {score}"


def _dev_score(version: "ModelVersion") -> float:
    """Higher is better."""
    return signed_score(version.tags["monitor"], float(version.tags["dev"]))


def _select(
    name: str, versions: list["ModelVersion"], source: str, monitor: str, champion: "ModelVersion | None"
) -> "ModelVersion":
    if source == "best":
        like = champion or next((each for each in reversed(versions) if each.tags["monitor"] == monitor), None)
        if like is None:
            raise UserError(f"{name}: no version is judged by {monitor}; name a run.")
        alike = [each for each in versions if all(each.tags.get(tag) == like.tags.get(tag) for tag in COMPARABLE)]
        return max(alike, key=_dev_score)
    matches = [each for each in versions if each.run_id == source]
    if not matches:
        legal = ", ".join(f"{each.run_id} ({each.tags['run']})" for each in versions[-5:])
        raise UserError(f"{source}: no version of {name} has this run. Legal: best, or a run: {legal}.")
    return matches[-1]


def _compare(client: Any, version: "ModelVersion", champion: "ModelVersion") -> tuple[bool, str]:
    """Whether a version has a better dev score than the champion, and the difference with a test, in words.

    Raises:
        UserError: other scores, or other dev sentences.
    """
    one, other, monitor = f"version {version.version}", f"version {champion.version}", version.tags["monitor"]
    if monitor != champion.tags["monitor"]:
        judged = f"{one} is judged by {monitor}, {other} by {champion.tags['monitor']}"
        raise UserError(f"{judged}: they cannot be compared.")
    first, second = (_dev_answers(client, each.run_id).set_index("id").sort_index() for each in (version, champion))
    if not first[["gold"]].equals(second[["gold"]]):
        raise UserError(f"{one} and {other} were judged on different dev sentences: their scores cannot be compared.")
    difference = _dev_score(version) - _dev_score(champion)
    if monitor == "loss":
        return difference > 0, f"{-difference:+.4f}, without a test, since a loss compares no labels"
    seeds = min(len(first.columns), len(second.columns)) - 1
    a, b = (table.drop(columns="gold").iloc[:, :seeds].T.to_numpy().tolist() for table in (first, second))
    p = compare(first["gold"].tolist(), a, b, monitor)
    by = f"{seeds} seed{'s' if seeds > 1 else ''} each, {len(first)} dev sentences"
    return difference > 0, f"{difference:+.2f}, p {p:.3f} by approximate randomisation ({by})"


def _dev_answers(client: Any, run_id: str) -> pd.DataFrame:
    with TemporaryDirectory() as folder:
        try:
            file = client.download_artifacts(run_id, DEV_ANSWERS, folder)
        except Exception as error:
            raise DataError(f"run {run_id} has no {DEV_ANSWERS}: {error_line(error)}.") from error
        # a label may be NA or None
        return pd.read_csv(file, dtype=str, keep_default_na=False)
