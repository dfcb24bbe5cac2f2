"""How fast a sweep is: trials per minute by workers and threads, and what a trial costs besides its training.

Run in a project whose data is prepared (`dvc repro embed`), on a machine with nothing else to do:

    python experiments/benchmarks/sweep_workers.py --json sweep_workers.json

Trials of the same number have the same parameters in every arrangement, and none is pruned. Ratios count, not rates.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from bilstm_attention import paths
from bilstm_attention.config import load_params
from bilstm_attention.search import sweep as sweeping
from bilstm_attention.search import trials
from bilstm_attention.search.space import read_sweep
from bilstm_attention.search.study import SweepSpec, counted
from bilstm_attention.tracking import sweep_runs

SWEEP = """
study: benchmark
sampler: {{kind: random, seed: 0}}
pruner: {{kind: none}}
fixed: {{train.epochs: {epochs}, train.patience: {epochs}, train.threads: {threads}}}
space:
  model.lstm_units: {{low: 50, high: 150, step: 50}}
  model.attention.kind: [zhou, structured, max]
  train.learning_rate: {{low: 1.0e-3, high: 1.0e-2, log: true}}
"""
# workers, threads of each
ARRANGEMENTS = {"one worker": (1, 1), "two workers": (2, 1), "one worker, both cores": (1, 2)}


def main() -> None:
    """Prints the medians, and writes every figure to a file if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8, help="of every arrangement and round")
    parser.add_argument("--epochs", type=int, default=6, help="of every trial")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trivial", type=int, default=500, help="trials without a training, for the overhead")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in ARRANGEMENTS}
    for number in range(given.rounds):
        for name, (workers, threads) in ARRANGEMENTS.items():
            rates[name].append(rate(given.trials, given.epochs, workers, threads))
            print(f"round {number + 1}: {name}: {rates[name][-1]:.2f} trials a minute", flush=True)
    one, two, both = (statistics.median(rates[name]) for name in ARRANGEMENTS)
    found: dict[str, Any] = {"trials_per_minute": rates, "two_to_one": two / one, "two_to_both_cores": two / both}
    print(f"two workers of one thread: {two / one:.2f} times one, {two / both:.2f} times one that uses both cores")
    for recorded in (False, True):
        name = f"overhead_ms{'_with_mlflow' if recorded else ''}"
        found[name] = overhead(given.trivial, recorded)
        print(f"{name}: {found[name]:.1f} a trial, of {given.trivial}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def rate(budget: int, epochs: int, workers: int, threads: int) -> float:
    """Trials per minute, from the beginning of the first to the end of the last: start-up is paid once a sweep."""
    with TemporaryDirectory() as folder:
        ended = counted(searched(Path(folder), budget, epochs, workers, threads, trials.do))
    assert [trial.state.name for trial in ended] == ["COMPLETE"] * budget
    began = min(trial.datetime_start for trial in ended if trial.datetime_start)
    last = max(trial.datetime_complete for trial in ended if trial.datetime_complete)
    return 60 * budget / (last - began).total_seconds()


def overhead(budget: int, recorded: bool) -> float:
    """Milliseconds of one worker's time that a trial takes when its training takes none; start-up is taken off."""
    with TemporaryDirectory() as folder:
        study = searched(Path(folder), budget, 1, 1, 1, untrained, recorded)
        began = [trial.datetime_start for trial in counted(study) if trial.datetime_start]
    return 1000 * (max(began) - min(began)).total_seconds() / (budget - 1)


def searched(
    folder: Path, budget: int, epochs: int, workers: int, threads: int, do: Callable[..., Any], recorded: bool = False
) -> Any:
    """A study whose jobs `do` does."""
    file = folder / "sweep.yaml"
    file.write_text(SWEEP.format(epochs=epochs, threads=threads), encoding="utf-8")
    read, space = read_sweep(file, load_params(paths.PARAMS), {})
    definition = SweepSpec(read, space, folder)

    def on_trial(study: Any, trial: Any) -> None:
        if recorded and trial:
            sweep_runs.record_trials(definition, study, [trial])

    def crew(another: Any, work: Any) -> Any:
        return sweeping.local_executor(workers)(another, partial(do, definition))

    with sweeping.locked(definition), sweeping.Stopping(print) as stopping:
        return sweeping.search(definition, budget, crew, math.inf, stopping, on_trial)


def untrained(definition: SweepSpec, job: trials.Job) -> int | None:
    """A trial whose training takes no time; all else is done."""
    score = {"official_f1": 50.0}

    def fit(*_: Any, on_epoch: Callable[[dict[str, Any]], None]) -> Any:
        on_epoch({"epoch": 1, "loss": 1.0, "dev_official_f1": 50.0})
        return SimpleNamespace(dev=score, best_epoch=1)

    sys.modules["bilstm_attention.training.fit"] = SimpleNamespace(fit=fit)  # type: ignore[assignment]
    return trials.do(definition, job)


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"took {time.monotonic() - started:.0f} s")
