"""The MLflow runs of sweeps and comparisons, built from their files.

Of a sweep, a parent with the outcome and a child per trial; of a comparison, the page and a child per training.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from bilstm_attention import paths
from bilstm_attention.config import Params, flatten, load_params, with_overrides
from bilstm_attention.data.dataset import load_split
from bilstm_attention.evaluation.metrics import scores
from bilstm_attention.reports.sweep_report import shown_params
from bilstm_attention.search.comparison import Comparison
from bilstm_attention.search.outcome import read_outcome
from bilstm_attention.search.results import Done
from bilstm_attention.search.study import finished_trials, local_url, open_storage
from bilstm_attention.search.trainings import TrainingJob, TrainingRecord, predicted_on_test, sample_name
from bilstm_attention.tracking.environment import input_digests
from bilstm_attention.tracking.pipeline import attention_metrics, corpus_name
from bilstm_attention.tracking.runs import RunRecord, epoch_metrics, fingerprints, live_runs, training_metrics
from bilstm_attention.yaml_files import check

STUDY_ID, TRIAL_ID = "sweep.id", "sweep.trial"
# A file per table, from which its runs are logged.
COMPARISON_RUNS = paths.TRAININGS / "runs"


@contextmanager
def log_sweep(study: optuna.Study, folder: Path) -> Iterator[Callable[[FrozenTrial], None]]:
    """The runs of a sweep while it lasts: a parent that shows the best score so far, with its outcome at the end.

    Yields:
        a function to call with each finished trial.
    """

    def running() -> RunRecord:
        return parent_record(study, folder, running=True)

    def log(*trials: FrozenTrial) -> None:
        records = [running(), *(trial_record(study, trial) for trial in trials)]
        submit(lambda tracker: [tracker.write(record) for record in records])

    about = f"the sweep {study.study_name}"
    with live_runs(corpus_name(_base(study)), about, running, lambda: sweep_records(study, folder)) as submit:
        log()
        yield log


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
        results += [(corpus_name(_base(study)), sweep_records(study, folder)) for study in begun]
        if not begun:
            missing.append(f"sweep {folder.name} has not begun")
    return results, missing


def _base(study: optuna.Study) -> Params:
    return check(study.user_attrs["definition"]["params"], f"study {study.study_name}", Params)


def trial_record(study: optuna.Study, trial: FrozenTrial) -> RunRecord:
    """A finished trial, with its curves."""
    attributes, definition, result = (
        trial.user_attrs,
        study.user_attrs["definition"],
        trial.system_attrs.get("result", {}),
    )
    sweep, data = definition["sweep"], definition["data"]
    values = shown_params({key.rpartition(".")[2]: value for key, value in trial.params.items()})
    if "dev" in result:
        curves = training_metrics(result["history"], result["dev"], result["best_epoch"])
    else:
        curves = {"history": [epoch_metrics(row) for row in result.get("history", ())], "metrics": {}}
    for fold, dev in enumerate(result.get("dev_by_fold", ())):
        curves["metrics"][f"dev/{sweep['metric']}/fold_{fold}"] = dev[sweep["metric"]]
    if len(study.directions) > 1 and trial.values:
        curves["metrics"][sweep["against"]] = trial.values[1]
    overrides = {**trial.params, "train.seeds": [attributes.get("seed", 0)]}
    # of folds, and of a study whose data has been replaced since, the digests alone are known
    splits = ("train", "dev") if data == input_digests() and "folds" not in sweep else ()
    files = {split: paths.PREPARED / f"{split}.parquet" for split in splits}
    tags = data | {"sweep": study.study_name, "state": trial.state.name.lower()}
    tags |= {key: str(value) for key, value in (sweep | attributes).items() if key in ("folds", "seed", "reason")}
    return RunRecord(
        name=f"trial {trial.number}: {values}"[:250],
        identity=(TRIAL_ID, f"{study.user_attrs['id']}/{trial.number}"),
        parent=(STUDY_ID, study.user_attrs["id"]),
        started=trial.datetime_start.timestamp() if trial.datetime_start else None,
        params=flatten(with_overrides(_base(study), overrides)),
        **curves,
        tags=tags,
        datasets=fingerprints(files),
    )


def parent_record(study: optuna.Study, folder: Path, running: bool = False) -> RunRecord:
    """The sweep: its best dev score after each finished trial, and at the end the winner's parameters and score."""
    definition, score = study.user_attrs["definition"], f"dev/{study.user_attrs['definition']['sweep']['metric']}"
    starts = [trial.datetime_start for trial in study.get_trials(deepcopy=False) if trial.datetime_start]
    record = RunRecord(
        name=f"sweep {study.study_name}",
        identity=(STUDY_ID, study.user_attrs["id"]),
        started=min(starts).timestamp() if starts else None,
        history=_best_so_far(study, score),
        tags=definition["data"] | {"sweep": study.study_name},
        status="RUNNING",
    )
    if running:
        return record
    outcome, report = read_outcome(folder), folder / "report.md"
    values = {score: outcome.get("score"), f"{score}/searched": outcome.get("searched"), "p": outcome.get("p")}
    text = report.read_text(encoding="utf-8") if report.is_file() else ""
    if (folder / "figures/figures.html").is_file():
        text = text.replace("\n## ", "\n[All figures, interactive](figures/figures.html)\n\n## ", 1)
    won = outcome.get("trial") is not None
    return replace(
        record,
        params=flatten(load_params(folder / "best.yaml")) if won else {},
        metrics={name: value for name, value in values.items() if value is not None},
        tags={**record.tags, **({"winner": f"trial {outcome['trial']}"} if won else {})},
        artifacts=_artifacts(folder),
        # its pictures become files of the run
        description=text.replace("](figures/", "](artifact:figures/"),
        status="FINISHED",
        # after a later start another trial may have won
        replaces=True,
    )


def _best_so_far(study: optuna.Study, score: str) -> list[dict[str, float]]:
    trials = sorted(finished_trials(study), key=lambda trial: (trial.datetime_complete, trial.number))
    rows, best = list[dict[str, float]](), list[float]()
    for count, trial in enumerate(trials, start=1):
        best = [max(best + trial.values[:1])] if trial.state == TrialState.COMPLETE else best
        rows.append({"epoch": count, "trials": count} | dict(zip([score], best, strict=False)))
    return rows


def _artifacts(folder: Path) -> dict[str, list[Path]]:
    top = [folder / name for name in ("leaderboard.csv", "best.yaml", "report.md", "sweep.yaml")]
    files = {"": [file for file in top if file.is_file()]}
    return files | {
        name: sorted((folder / name).iterdir()) for name in ("figures", "front") if (folder / name).is_dir()
    }


def save_runs(comparison: Comparison, done: Mapping[str, Done]) -> None:
    """Writes the runs of a table by MLflow experiment.

    A training of several tables is a run of each.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    for variant, trainings in done.items():
        for job, record in trainings:
            runs.setdefault(corpus_name(job.params), []).append(_run(comparison, variant, job, record))
    paths.write_json(COMPARISON_RUNS / f"{comparison.page}.{comparison.name}.json", runs)


def comparison_runs(table: str = "*") -> list[tuple[str, list[RunRecord]]]:
    """The runs of all comparisons, by MLflow experiment: a parent, described by the page, and the trainings.

    Args:
        table: as `page.table`, if it is one alone.
    """
    runs: dict[tuple[str, str], list[RunRecord]] = {}
    for file in sorted(COMPARISON_RUNS.glob(f"{table}.json")):
        page = file.stem.rpartition(".")[0]
        for experiment, arguments in json.loads(file.read_text(encoding="utf-8")).items():
            records = runs.setdefault((page, experiment), [_parent(page)])
            records += [
                RunRecord(**{**each, "identity": tuple(each["identity"]), "parent": records[0].identity})
                for each in arguments
            ]
    return [(experiment, records) for (_, experiment), records in runs.items()]


def _parent(page: str) -> RunRecord:
    file = paths.RESULTS / f"{page}.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    links = re.findall(rf"\]\(({page}[^/)]*[.](?:png|csv))\)", text)
    files = [paths.RESULTS / name for name in dict.fromkeys((f"{page}.csv", f"{page}.md", *links))]
    return RunRecord(
        name=page,
        identity=("comparison.page", page),
        artifacts={"": [each for each in files if each.is_file()]},
        description=re.sub(rf"\]\(({page}[^/)]*[.](?:png|csv)\))", r"](artifact:\1", text),
    )


def _run(comparison: Comparison, variant: str, job: TrainingJob, record: TrainingRecord) -> dict[str, Any]:
    """The arguments of a `RunRecord`."""
    fold, splits = job.params.data.fold, ["train", "dev"]
    tags = {"comparison": comparison.page, "table": comparison.name, "variant": variant, "seed": str(job.seed)}
    tags |= {} if fold is None else {"fold": str(fold)}
    curves = training_metrics(record.history, record.dev, record.best_epoch)
    for sample in job.faithfulness:
        curves["metrics"] |= attention_metrics(record.faithfulness[sample_name(sample)])
    if predicted := predicted_on_test(job, record):
        splits.append("test")
        gold = load_split("test", ["label"], job.root)["label"].tolist()
        tested = scores(gold, predicted, record.labels)
        curves["metrics"] |= {f"test/{name}": value for name, value in tested.items()}
    # a digest, since names of variants may hold quotes, which end a query of MLflow
    identity = hashlib.sha256(json.dumps([record.key, *tags.values()]).encode()).hexdigest()[:32]
    return {
        "name": job.name,
        "identity": ("training.digest", identity),
        "params": flatten(with_overrides(job.params, {"train.seeds": [job.seed]})),
        "started": record.started,
        **curves,
        "tags": record.environment | tags,
        "datasets": fingerprints({split: job.root / paths.PREPARED / f"{split}.parquet" for split in splits}),
    }
