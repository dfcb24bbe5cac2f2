"""What the tracking store knows of runs that were evaluated: parameters, histories, answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from bilstm_attention.errors import UserError
from bilstm_attention.experiment.registry import DEV_ANSWERS
from bilstm_attention.experiment.tracking import MODEL_DIGEST, Tracker, reason_of

TEST_ANSWERS = "predictions.csv"
PAGE = 200


@dataclass(frozen=True)
class Evaluated:
    """A run that was judged on test, or one of its seeds.

    Args:
        run: its id.
        name: how it is called.
        params: all parameters by dotted name, as text.
        dev: answers on dev: `id`, `gold`, and `seed_N` for each seed.
        test: the same on test.
        histories: by seed, a row per epoch: `epoch`, `loss`, `dev_loss` and the dev scores.
        models: by seed, the digest of its model.
        one_of_several: whether this is one seed of a run that has more.
    """

    run: str
    name: str
    params: dict[str, str]
    dev: pd.DataFrame
    test: pd.DataFrame
    histories: dict[int, pd.DataFrame]
    models: dict[int, str]
    one_of_several: bool = False

    @property
    def seeds(self) -> list[int]:
        """Those that it answered with."""
        return [int(name.removeprefix("seed_")) for name in self.dev.columns[2:]]

    def alone(self, seed: int) -> "Evaluated":
        """The same of one seed."""
        columns = ["id", "gold", f"seed_{seed}"]
        return replace(
            self,
            name=f"seed {seed}",
            dev=self.dev[columns],
            test=self.test[columns],
            histories={seed: self.histories[seed]},
            models={seed: self.models[seed]},
            one_of_several=True,
        )


def evaluated(tracker: Tracker, wanted: Sequence[str], newest: int) -> list[Evaluated]:
    """Reads runs by their ids; where none is given, the newest of the experiment, the oldest of them first.

    Raises:
        UserError: the store has not such a run, or it was not evaluated as a whole.
    """
    ids = list(wanted) or _newest(tracker, newest)
    if not ids:
        raise UserError("no run of this corpus has been evaluated; `dvc repro` makes one.")
    runs = [_read(tracker, run) for run in ids]
    # names tell kind, units and seeds, and may be alike
    names = Counter(run.name for run in runs)
    return [replace(run, name=f"{run.name}, {run.run[:8]}") if names[run.name] > 1 else run for run in runs]


def _newest(tracker: Tracker, count: int) -> list[str]:
    found, page = list[str](), None
    # those of sweeps and comparisons are not evaluated as a whole, and may be many
    while page is None or (page.token and len(found) < count):
        page = tracker.client.search_runs(
            [tracker.experiment],
            "attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=PAGE,
            page_token=page and page.token,
        )
        wholes = [
            run.info.run_id for run in page if any(name.startswith("majority_test_") for name in run.data.metrics)
        ]
        # those of older versions have no answers
        found += [run for run in wholes if DEV_ANSWERS in {file.path for file in tracker.client.list_artifacts(run)}]
    return found[:count][::-1]


def _read(tracker: Tracker, run_id: str) -> Evaluated:
    client = tracker.client
    with TemporaryDirectory() as folder:
        try:
            run = client.get_run(run_id)
            files = [Path(client.download_artifacts(run_id, name, folder)) for name in (DEV_ANSWERS, TEST_ANSWERS)]
        except Exception as error:
            raise UserError(f"{run_id}: no run that was evaluated as a whole: {reason_of(error)}.") from error
        # a label may be NA or None
        dev, test = (pd.read_csv(file, dtype=str, keep_default_na=False) for file in files)
    seeds = [int(name.removeprefix("seed_")) for name in dev.columns[2:]]
    of_seed = {seed: _of_seed(tracker, run, seed) for seed in seeds}
    return Evaluated(
        run=run_id,
        name=str(run.info.run_name),
        params=dict(run.data.params),
        dev=dev,
        test=test[dev.columns],
        histories={seed: _history(client, model) for seed, model in of_seed.items()},
        models={seed: model.data.tags[MODEL_DIGEST] for seed, model in of_seed.items()},
    )


def _of_seed(tracker: Tracker, run: Any, seed: int) -> Any:
    """The run of one model of a run: itself, or, of several, the child, which a later run may have adopted since."""
    digest = run.data.tags.get(f"{MODEL_DIGEST}.{seed}")
    if digest is None:
        return run
    # the run may be of another corpus than the present one
    found = tracker.newest(MODEL_DIGEST, digest, run.info.experiment_id)
    if found is None:
        raise UserError(f"run {run.info.run_id}: the run of its seed {seed} is not in the store any more.")
    return tracker.client.get_run(found)


def _history(client: Any, run: Any) -> pd.DataFrame:
    names = [name for name in run.data.metrics if name == "loss" or f"best_{name}" in run.data.metrics]
    curves = {
        name: {each.step: each.value for each in client.get_metric_history(run.info.run_id, name)} for name in names
    }
    return pd.DataFrame(curves).sort_index().rename_axis("epoch").reset_index()
