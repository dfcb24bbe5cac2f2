"""Models in MLflow: logged to classify raw text; `promote` registers one, as the champion of its name."""

import importlib.metadata
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from bilstm_attention.errors import UserError
from bilstm_attention.evaluation.metrics import compare, signed_score
from bilstm_attention.paths import sha256
from bilstm_attention.tracking.store import error_line, open_store, report_store_errors

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel as MlflowModel
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
EVIDENCE = "promoted"  # tag of a version: when and why it became the champion
DEV_ANSWERS = "dev_predictions.csv"  # artifact of a run: dev predictions of each seed, by which models are compared
MODEL_DIGEST = "model.sha256"
NOTE = "mlflow.note.content"  # tag that the UI shows as the description of a run or a logged model
FORBIDDEN = re.compile(r"[/:.%\"'\\]")  # in names of models
SERVING_PACKAGES = (
    *("mlflow", "keras", "tensorflow", "numpy", "pandas", "pyarrow", "pydantic", "regex", "ruamel.yaml", "rich"),
)
# limits of a request, unless a model is loaded with another `model_config`
SERVING_LIMITS = {"max_rows": 5000, "max_characters": 100_000}


@dataclass(frozen=True)
class LoggedModel:
    """A model to log with a run."""

    name: str
    files: Mapping[str, Path]  # by name, what `serving.classifier.load_folder` reads
    example: str  # a sentence that it classifies
    card: str  # its description, in Markdown
    scores: Mapping[str, float]  # by the name of the metric, such as `dev/accuracy`
    datasets: Mapping[str, str]  # digests, by the first word of such a name


def log_model(client: Any, experiment: str, run_id: str, model: LoggedModel) -> str:
    """Logs a model with a run, once; returns its id."""
    import mlflow
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Map

    digest = sha256(model.files["model.keras"])
    for each in _search(client, [experiment], f"source_run_id = '{run_id}' AND tags.`{MODEL_DIGEST}` = '{digest}'"):
        if each.status == "READY":
            return str(each.model_id)
        client.delete_logged_model(each.model_id)
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
    name, tags = FORBIDDEN.sub("_", model.name), {MODEL_DIGEST: digest, NOTE: model.card}
    params = client.get_run(run_id).data.params
    logged = client.create_logged_model(experiment, name=name, source_run_id=run_id, tags=tags, params=params)
    with TemporaryDirectory() as scratch:
        data, saved = Path(scratch) / "classifier", Path(scratch) / "saved"
        data.mkdir()
        for file_name, file in model.files.items():
            shutil.copy(file, data / file_name)
        # not Model.log, which loads the model to try its example: 3 s for an import of TensorFlow
        mlflow.pyfunc.save_model(
            saved,
            mlflow_model=Model(run_id=run_id, model_uuid=logged.model_id, model_id=logged.model_id),
            loader_module="bilstm_attention.serving.classifier",
            data_path=str(data),
            model_config=SERVING_LIMITS,
            code_paths=[str(Path(__file__).parents[1])],
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in SERVING_PACKAGES],
            signature=signature,
            input_example=pd.DataFrame({"text": [model.example]}),
        )
        client.log_model_artifacts(logged.model_id, str(saved))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def log_model_scores(client: Any, run_id: str, model_id: str, model: LoggedModel) -> None:
    """Gives a logged model the scores of its run, each with its dataset."""
    from mlflow.entities import Metric

    logged = {(metric.key, metric.value) for metric in client.get_logged_model(model_id).metrics or ()}
    metrics, now = [], int(time.time() * 1000)
    for name, value in model.scores.items():
        if (name, value) in logged:
            continue
        # the last point of the run's own curve again, which leaves the curve as it is
        points = [each for each in client.get_metric_history(run_id, name) if each.value == value]
        point = max(points, key=lambda each: each.step, default=Metric(name, value, now, 0))
        dataset = name.partition("/")[0]
        metrics.append(Metric(name, value, point.timestamp, point.step, model_id, dataset, model.datasets[dataset]))
    client.log_batch(run_id, metrics)


def find_model(client: Any, source: str | Path, experiment: str | None = None) -> "MlflowModel":
    """Finds a logged model, in the experiment of this name or in all.

    Args:
        source: id of the model's run, its first characters, or the run's name; `NAME/VERSION` of a registered model;
            or the file `model.keras`, of which the newest evaluation counts.

    Raises:
        UserError: no model is from this source, or those of several runs are.
    """
    if isinstance(source, str) and (version := re.fullmatch(r"(.+)/(\d+)", source)):
        try:
            return _version_model(client, client.get_model_version(*version.groups()))
        except Exception as error:
            raise UserError(f"{source}: no model of this version: {error_line(error)}") from error
    experiments = [each.experiment_id for each in client.search_experiments() if experiment in (None, each.name)]
    if isinstance(source, Path):
        queries, unknown = [f"tags.`{MODEL_DIGEST}` = '{sha256(source)}'"], "not logged yet; `dvc repro` does it"
    else:
        named = client.search_runs(experiments, f'attributes.run_name = "{source}"') if '"' not in source else []
        queries = [f"source_run_id IN ({', '.join(repr(run.info.run_id) for run in named)})"] if named else []
        queries += [f"source_run_id LIKE '{source}%'"] if source.isalnum() else []
        unknown = "no run of this id or name has a model"
    models = [each for query in queries for each in _search(client, experiments, query) if each.status == "READY"]
    runs = {each.source_run_id for each in models}
    if models and (len(runs) == 1 or isinstance(source, Path)):
        return models[0]
    legal = list(dict.fromkeys(each.source_run_id for each in models or _search(client, experiments, "")))[:5]
    fault = f"{len(runs)} runs fit; type more of an id" if runs else unknown
    shown = ", ".join(f"{run_id[:12]} ({client.get_run(run_id).info.run_name})" for run_id in legal) or "none"
    raise UserError(f"{source}: {fault}. Runs with a model: {shown}.")


def _search(client: Any, experiments: list[str], query: str) -> list["MlflowModel"]:
    """Logged models, the newest first."""
    newest = [{"field_name": "creation_timestamp", "ascending": False}]
    return list(client.search_logged_models(experiments, query, order_by=newest)) if experiments else []


def _version_model(client: Any, version: "ModelVersion") -> "MlflowModel":
    model: MlflowModel = client.get_logged_model(version.source.removeprefix("models:/"))
    return model


def fetch_model(source: str, folder: Path) -> Path:
    """Downloads a logged model to a folder; returns the one in it that `serving.classifier.load_folder` reads.

    `source` is that of `find_model`, or an address of MLflow such as `models:/sample@champion`.

    Raises:
        UserError: the store has no such model, or does not answer.
    """
    import mlflow
    from mlflow.models import Model

    with report_store_errors(f"{source}: no such model in "):
        client = open_store()
        address = source if ":/" in source else f"models:/{find_model(client, source).model_id}"
        whole = Path(mlflow.artifacts.download_artifacts(address, dst_path=str(folder)))
        return whole / str(Model.load(whole).flavors["python_function"]["data"])


def promote(name: str, experiment: str, source: str | Path, if_better: bool) -> None:
    """Registers a model as version of `name`, with the alias `champion` and a tag with the evidence; prints both.

    With `if_better` only if its dev score is better than the champion's. `source` and `experiment`: see `find_model`.

    Raises:
        UserError: no such model, or, with `if_better`, one that cannot be compared with the champion.
    """
    client = open_store()
    model = find_model(client, source, experiment)
    print(_describe(client, model))
    registered = next(iter(client.search_registered_models(f"name = '{name}'")), None)
    number, evidence = registered and registered.aliases.get(CHAMPION), "first champion"
    if number:
        champion, better = client.get_model_version(name, number), False
        if champion.source == f"models:/{model.model_id}":
            print(f"{name}: it is the champion already, version {number}.")
            return
        try:
            best = _version_model(client, champion)
            print(f"{_describe(client, best)}, the champion, version {number}")
            better, evidence = _compare(client, model, best)
        except Exception as error:
            evidence = str(error) if isinstance(error, UserError) else f"it has no dev score: {error_line(error)}"
            if if_better:
                raise UserError(f"{name}: no comparison with version {number}, the champion: {evidence}") from error
        print(f"difference: {evidence}")
        if if_better and not better:
            print(f"{name}: version {number} stays champion.")
            return
        evidence = f"against version {number}: {evidence}"
    if not registered:
        client.create_registered_model(name)
    version = _register(client, name, model)
    client.set_registered_model_alias(name, CHAMPION, version)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    client.set_model_version_tag(name, version, EVIDENCE, f"{when}, {evidence}")
    print(f"{name}: version {version} is champion; models:/{name}@{CHAMPION} serves it.")


def _register(client: Any, name: str, model: "MlflowModel") -> str:
    """The version of a registered model that a logged model has, or now gets."""
    source, run_id = f"models:/{model.model_id}", model.source_run_id
    for each in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        if each.source == source:
            return str(each.version)
    card = model.tags.get(NOTE)
    return str(client.create_model_version(name, source, run_id, description=card, model_id=model.model_id).version)


def _dev_score(model: "MlflowModel") -> tuple[str, float]:
    """Name and value of the score by which a model was selected; UserError if it has none."""
    monitor = (model.params or {}).get("train.monitor")
    scores = [metric.value for metric in model.metrics or () if metric.key == f"dev/{monitor}"]
    if not scores:
        raise UserError(f"run {model.source_run_id}: its model has no dev score.")
    return str(monitor), scores[-1]


def _describe(client: Any, model: "MlflowModel") -> str:
    monitor, score = _dev_score(model)
    run = client.get_run(model.source_run_id).info
    return f"{run.run_name}, run {run.run_id}: dev {monitor} {score:.{4 if monitor == 'loss' else 2}f}"


def _compare(client: Any, model: "MlflowModel", champion: "MlflowModel") -> tuple[bool, str]:
    """Whether a model has a better dev score than the champion, and the difference with a test, in words."""
    (monitor, score), (other, best) = _dev_score(model), _dev_score(champion)
    if monitor != other:
        raise UserError(f"the dev scores are {monitor} and {other}, which do not compare.")
    first, second = (_dev_answers(client, each.source_run_id) for each in (model, champion))
    if not first[["gold"]].equals(second[["gold"]]):
        raise UserError(
            "the dev sentences are not the same, so the scores do not compare; promote without --if-better, or give the"
            " model a name of its own by `evaluate.register_as`."
        )
    better = signed_score(monitor, score) > signed_score(monitor, best)
    if monitor == "loss":
        return better, f"{score - best:+.4f}, without a test, since a loss compares no labels"
    seeds = min(len(first.columns), len(second.columns)) - 1
    a, b = (table.drop(columns="gold").iloc[:, :seeds].T.to_numpy().tolist() for table in (first, second))
    p = compare(first["gold"].tolist(), a, b, monitor)
    by = f"{seeds} seed{'s' if seeds > 1 else ''} each, {len(first)} dev sentences"
    return better, f"{score - best:+.2f}, p {p:.3f} by approximate randomisation ({by})"


def _dev_answers(client: Any, run_id: str) -> pd.DataFrame:
    """Dev predictions of a run by sentence: `gold`, and a column for each seed."""
    with TemporaryDirectory() as folder:
        try:
            file = client.download_artifacts(run_id, DEV_ANSWERS, folder)
        except Exception as error:
            raise UserError(f"run {run_id} has no {DEV_ANSWERS}: {error_line(error)}.") from error
        # a label may be NA or None
        return pd.read_csv(file, dtype=str, keep_default_na=False).set_index("id").sort_index()
