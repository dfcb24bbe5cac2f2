"""One trial of a sweep: parameters from the study, a training, its dev score back; runs in a worker process."""

import fcntl
import json
import os
import socket
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from bilstm_attention.errors import TrainingError
from bilstm_attention.experiment.space import Pruner, Sampler, Space, Sweep
from bilstm_attention.experiment.workers import orphaned
from bilstm_attention.overrides import with_overrides
from bilstm_attention.params import Params
from bilstm_attention.paths import written_whole
from bilstm_attention.terminal import start_tensorflow

# Seeds of confirmations, and of samplers, start where those of trials never come.
CONFIRMATIONS, SAMPLERS = 1_000_000, 2_000_000


@dataclass(frozen=True)
class Definition:
    """A sweep as its workers need it.

    Args:
        sweep: what its file says.
        space: the parameters that are tried, and those that all trials share.
        folder: `experiments/studies/<study>`.
    """

    sweep: Sweep
    space: Space
    folder: Path

    @property
    def journal(self) -> Path:
        """The file that holds the study."""
        return self.folder / "journal.log"

    def trial_file(self, number: int) -> Path:
        """What one trial gave."""
        return self.folder / "trials" / f"{number:04d}.json"

    def confirmation_file(self, number: int, seed: int) -> Path:
        """What the parameters of one trial gave with another seed."""
        return self.folder / "confirmations" / f"{number:04d}-{seed}.json"


@dataclass(frozen=True)
class Job:
    """A trial, or, with the number of one, its parameters and a seed, the confirmation of it.

    Args:
        ticket: of a new trial; no two have the same, so that no two samplers draw the same.
        number: of the trial to confirm.
        seed: with which.
        overrides: its parameters.
    """

    ticket: int = 0
    number: int | None = None
    seed: int = 0
    overrides: tuple[tuple[str, Any], ...] = ()


def derived_seed(study_seed: int, number: int) -> int:
    """The seed of a trial or a confirmation: of each its own, and the same whenever it is run again."""
    return int(np.random.SeedSequence((study_seed, number)).generate_state(1)[0] >> 1)


class JournalLock(JournalFileOpenLock):
    """Keeps processes of one machine from writing to the journal at once.

    The system frees it when its holder dies; Optuna's own locks are files, which a killed process leaves behind.
    """

    def __init__(self, journal: Path):
        super().__init__(str(journal))
        self._path = journal.with_suffix(".lock")

    def acquire(self) -> bool:
        """Waits for it."""
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Frees it."""
        self._file.close()


def open_study(definition: Definition, sampler_seed: int | None = None) -> optuna.Study:
    """The study of a sweep, made if it is not there; `sampler_seed` keeps samplers of different workers apart."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweep = definition.sweep
    return optuna.create_study(
        study_name=sweep.study,
        storage=JournalStorage(JournalFileBackend(str(definition.journal), JournalLock(definition.journal))),
        direction="maximize",
        load_if_exists=True,
        sampler=_sampler(sweep.sampler, sweep.sampler.seed if sampler_seed is None else sampler_seed),
        pruner=_pruner(sweep.pruner, definition.space.base.train.epochs),
    )


def _sampler(params: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    match params.kind:
        case "tpe":
            # constant_liar keeps workers from trying the same at the same time
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        case "random" | "grid":
            # a grid is handed to the study whole, so that nothing is left to draw
            return optuna.samplers.RandomSampler(seed=seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed)
        case "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed)


def _pruner(params: Pruner, epochs: int) -> optuna.pruners.BasePruner:
    match params.kind:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            return optuna.pruners.MedianPruner()
        case "hyperband":
            return optuna.pruners.HyperbandPruner(max_resource=epochs)


@lru_cache(maxsize=1)
def _task() -> Any:
    """The arrays, read once per worker."""
    from bilstm_attention.experiment.task import load_task

    return load_task()


def do(definition: Definition, job: Job) -> int:
    """Does a job; returns the number of its trial."""
    start_tensorflow()
    return run_trial(definition, job.ticket) if job.number is None else confirm(definition, job.number, job)


def confirm(definition: Definition, number: int, job: Job) -> int:
    """Trains the parameters of a trial with another seed, and writes its dev scores and predictions."""
    from bilstm_attention.experiment import prediction
    from bilstm_attention.experiment.training import fit

    params = with_overrides(definition.space.base, dict(job.overrides))
    fitted = fit(params.model, params.train, _task(), job.seed)
    predicted = prediction.named(prediction.predict(fitted.model, _task().dev), _task().labels)
    _write(definition.confirmation_file(number, job.seed), {"dev": fitted.dev, "predicted": predicted})
    return number


def run_trial(definition: Definition, ticket: int) -> int:
    """Asks the study for parameters, trains, and tells it the dev score of the best epoch.

    Whatever goes wrong in a training is the outcome of the trial, with its reason, and not the end of the sweep.
    """
    from bilstm_attention.experiment.training import fit

    sweep = definition.sweep
    study = open_study(definition, derived_seed(sweep.sampler.seed, SAMPLERS + ticket))
    trial = study.ask()
    trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
    seed = derived_seed(sweep.sampler.seed, trial.user_attrs.get("retry_of", trial.number))
    trial.set_user_attr("seed", seed)
    started, history = time.time(), []
    found: dict[str, Any] = {"started": started, "seed": seed}

    def report(row: dict[str, Any]) -> None:
        history.append(row)
        if orphaned():
            # nobody waits for the outcome; the next start finds the trial unfinished and tries it again
            os._exit(1)
        trial.report(row[f"dev_{sweep.metric}"], row["epoch"])
        if trial.should_prune():
            raise optuna.TrialPruned

    state, value = TrialState.FAIL, None
    try:
        found["overrides"] = definition.space.suggest(trial)
        params = trial_params(definition, found)
        fitted = fit(params.model, params.train, _task(), seed, on_epoch=report)
        state, value = TrialState.COMPLETE, fitted.dev[sweep.metric]
        found |= {"dev": fitted.dev, "best_epoch": fitted.best_epoch}
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except TrainingError as error:
        found["reason"] = str(error)
    except Exception as error:
        found["reason"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
    if "reason" in found:
        trial.set_user_attr("reason", found["reason"])
    found |= {"state": state.name, "value": value, "history": history, "seconds": time.time() - started}
    _write(definition.trial_file(trial.number), found)
    study.tell(trial, value, state, skip_if_finished=True)
    return trial.number


def trial_params(definition: Definition, found: dict[str, Any]) -> Params:
    """All parameters of a trial, its seed among them."""
    return with_overrides(definition.space.base, {**found["overrides"], "train.seeds": [found["seed"]]})


def _write(path: Path, content: dict[str, Any]) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
