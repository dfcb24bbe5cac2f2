"""The MLflow runs of a sweep, built from its study and its folder: a parent with the outcome, a child per trial."""

from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from bilstm_attention import paths
from bilstm_attention.config import Params, flatten, load_params, with_overrides
from bilstm_attention.reports.sweep_report import shown_params
from bilstm_attention.search.outcome import read_outcome
from bilstm_attention.search.retries import finished_trials
from bilstm_attention.search.study import local_url, open_storage
from bilstm_attention.tracking.environment import input_digests
from bilstm_attention.tracking.pipeline import corpus_name
from bilstm_attention.tracking.runs import RunRecord, fingerprints
from bilstm_attention.yaml_files import check

STUDY_ID, TRIAL_ID = "sweep.id", "sweep.trial"


def sweep_records(study: optuna.Study, folder: Path) -> list[RunRecord]:
    """The run of the sweep, with the outcome that stands in its folder, and a run for every finished trial."""
    return [parent_record(study, folder), *(trial_record(study, trial) for trial in finished_trials(study))]


def sweep_runs() -> tuple[list[tuple[str, list[RunRecord]]], list[str]]:
    """The runs of all sweeps by MLflow experiment, and in words what is not there."""
    results, missing = [], []
    for folder in sorted(folder for folder in paths.STUDIES.glob("*") if folder.is_dir()):
        if not (folder / "study.db").is_file():
            missing.append(f"sweep {folder.name} is in a database; the same `sweep` command logs it")
            continue
        storage = open_storage(local_url(folder))
        studies = [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]
        begun = [study for study in studies if "definition" in study.user_attrs]
        results += [(experiment_name(study), sweep_records(study, folder)) for study in begun]
        if not begun:
            missing.append(f"sweep {folder.name} has not begun")
    return results, missing


def experiment_name(study: optuna.Study) -> str:
    """The MLflow experiment of a sweep."""
    return corpus_name(_base(study))


def _base(study: optuna.Study) -> Params:
    return check(study.user_attrs["definition"]["params"], f"study {study.study_name}", Params)


def trial_record(study: optuna.Study, trial: FrozenTrial) -> RunRecord:
    """A finished trial, with its curves."""
    attributes, sweep = trial.user_attrs, study.user_attrs["definition"]["sweep"]
    # a user attribute in studies of earlier versions
    result = (attributes | trial.system_attrs).get("result", {})
    values = shown_params({key.rpartition(".")[2]: value for key, value in trial.params.items()})
    metrics = {f"best_dev_{score}": value for score, value in result.get("dev", {}).items()}
    if len(study.directions) > 1 and trial.values:
        metrics[sweep["against"]] = trial.values[1]
    overrides = {**trial.params, "train.seeds": [attributes.get("seed", 0)]}
    data = study.user_attrs["definition"]["data"]
    # of a study whose data has been replaced since, the digests alone are known
    files = (
        {split: paths.PREPARED / f"{split}.parquet" for split in ("train", "dev")} if data == input_digests() else {}
    )
    tags = data | {"sweep": study.study_name, "state": trial.state.name.lower()}
    return RunRecord(
        name=f"trial {trial.number}: {values}"[:250],
        identity=(TRIAL_ID, f"{study.user_attrs['id']}/{trial.number}"),
        parent=(STUDY_ID, study.user_attrs["id"]),
        started=trial.datetime_start.timestamp() if trial.datetime_start else None,
        params=flatten(with_overrides(_base(study), overrides)),
        metrics=metrics,
        history=result.get("history", ()),
        tags=tags | {key: str(attributes[key]) for key in ("seed", "reason") if key in attributes},
        datasets=fingerprints(files),
    )


def parent_record(study: optuna.Study, folder: Path) -> RunRecord:
    """The sweep: what all trials share as parameters, the winner's score as metrics, the winner's parameters as tags.

    The winner may change when the sweep goes on, and parameters of a run in MLflow cannot.
    """
    sweep = study.user_attrs["definition"]["sweep"]
    outcome, tags = read_outcome(folder), study.user_attrs["definition"]["data"] | {"sweep": study.study_name}
    if outcome.get("trial") is not None:
        best = flatten(load_params(folder / "best.yaml"))
        tags |= {"winner": f"trial {outcome['trial']}"} | {f"winner.{key}": str(best[key]) for key in sweep["space"]}
    metrics = {name: outcome[name] for name in ("trials", "p") if outcome.get(name) is not None}
    for name, key in ((f"best_dev_{sweep['metric']}", "score"), (f"searched_dev_{sweep['metric']}", "searched")):
        if outcome.get(key) is not None:
            metrics[name] = outcome[key]
    report = folder / "report.md"
    starts = [trial.datetime_start for trial in study.get_trials(deepcopy=False) if trial.datetime_start]
    return RunRecord(
        name=f"sweep {study.study_name}",
        identity=(STUDY_ID, study.user_attrs["id"]),
        started=min(starts).timestamp() if starts else None,
        params={key: value for key, value in flatten(_base(study)).items() if key not in sweep["space"]},
        metrics=metrics,
        tags=tags,
        artifacts=_artifacts(folder),
        # its pictures become files of the run
        description=report.read_text(encoding="utf-8").replace("](figures/", "](artifact:figures/")
        if report.is_file()
        else "",
        final=True,
    )


def _artifacts(folder: Path) -> dict[str, list[Path]]:
    top = [folder / name for name in ("leaderboard.csv", "best.yaml", "report.md", "sweep.yaml")]
    files = {"": [file for file in top if file.is_file()]}
    return files | {
        name: sorted((folder / name).iterdir()) for name in ("figures", "front") if (folder / name).is_dir()
    }
