"""How fast training is: ours, Keras's LSTM, the well-known Keras snippet, PyTorch and JAX, side by side.

Run in a project after `dvc repro embed`, on a machine with nothing else to do:

    python experiments/benchmarks/throughput.py --json speed.json

The contenders take turns, round by round, each in a process of its own for each number of threads.
PyTorch and JAX are not dependencies of the project: contenders whose library is missing are left out.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from work import Setup, load_work

# name in a table, module, library
CONTENDERS = {
    "ours": ("ours, dense updates", "keras_lstm", "keras"),
    "sparse": ("ours, sparse updates", "keras_lstm", "keras"),
    "keras": ("ours, Keras's LSTM", "keras_lstm", "keras"),
    "seed": ("the snippet, padded to 100", "keras_lstm", "keras"),
    "torch": ("PyTorch nn.LSTM", "torch_lstm", "torch"),
    "torch sparse": ("PyTorch nn.LSTM, SparseAdam", "torch_lstm", "torch"),
    "torch unpacked": ("PyTorch nn.LSTM, reading padding", "torch_lstm", "torch"),
    "jax": ("JAX lax.scan", "jax_lstm", "jax"),
    "sgemm": ("products of 2,048 x 2,048", "keras_lstm", "keras"),
}
WHOLE = ["ours", "sparse", "torch", "torch sparse"]  # of these a whole training can be timed
THREADS = {"seed": [0], "jax": [0]}  # the library decides


def run_worker(setup: Setup) -> None:
    """Takes one pass that warms up and one that is timed, or a whole training; prints the figures as JSON."""
    take, losses = importlib.import_module(CONTENDERS[setup.contender][1]).contender(setup)
    if not setup.until:
        take()
    started = time.perf_counter()
    done = take()
    print(json.dumps({"losses": losses, "seconds": time.perf_counter() - started, **done}))


def measure(setups: list[Setup], rounds: int) -> pd.DataFrame:
    """A row for each round of each setup: first losses, milliseconds a step, tokens, and the share of padding.

    Raises:
        SystemExit: the contenders' first losses differ, so they do not train the same network.
    """
    rows = []
    for number, setup in product(range(rounds), setups):
        command = [sys.executable, __file__, "--worker", json.dumps(asdict(setup))]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        rows.append({**asdict(setup), "round": number, **json.loads(done.stdout.splitlines()[-1])})
    frame = pd.DataFrame(rows)
    losses = {row["contender"]: row["losses"] for row in rows if row["losses"]}
    if losses and np.ptp(list(losses.values()), axis=0).max() > 1e-4:
        raise SystemExit(f"not the same network: first losses {losses}")
    tokens = float(load_work(setups[0]).data.train.lengths.mean()) * setups[0].batch_size
    ms, padding = 1000 * frame["seconds"] / frame["steps"], frame["cells"] / frame["steps"] / tokens - 1
    cost = frame["seconds"] if setups[0].until else ms
    return frame.assign(ms=ms, cost=cost, tokens=tokens, padding=padding.clip(lower=0))


def work_of(row: pd.Series) -> float:
    """Floating-point operations of a step in the products of both LSTMs: of one forward and two backward."""
    return float(2 * row["tokens"] * (row["dimension"] + row["units"]) * 4 * row["units"] * 2 * 3)


def table(frame: pd.DataFrame) -> str:
    """Medians by contender and threads; a ratio to the faster of ours is taken within a round."""
    setups = {setup: rows.set_index("round") for setup, rows in frame.groupby(["contender", "threads"], sort=False)}
    names = frame["contender"].unique()
    base = next((name for name in ("sparse", "ours") if name in names), None)
    ours = [rows["cost"] for (name, _), rows in setups.items() if name == base]
    lines = []
    for (name, threads), rows in setups.items():
        ms = rows["ms"].median()
        line = {"contender": CONTENDERS[name][0], "threads": threads or "its own", "ms a step": f"{ms:.2f}"}
        first, products = rows.iloc[0], name == "sgemm"
        line["GFLOP/s"] = f"{(2 * 2048**3 if products else work_of(first)) / ms / 1e6:.0f}"
        if first["until"]:
            line |= {"seconds": f"{rows['seconds'].median():.2f}", "epochs": f"{rows['epochs'].median():.0f}"}
        elif not products:
            line["padding"] = f"{first['padding']:.0%}"
        if ours and not products:
            ratios = rows["cost"] / min(ours, key=pd.Series.median)
            spread = f"({ratios.min():.2f} to {ratios.max():.2f})"
            line[f"time, {CONTENDERS[base][0]} = 1"] = f"{ratios.median():.2f} {spread}"
        lines.append(line)
    return pd.DataFrame(lines).fillna("").to_markdown(index=False, disable_numparse=True)


def main() -> None:
    """Prints a Markdown table for each size, and writes every figure to a file if it is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 10], help="sentences of a batch")
    parser.add_argument("--dimension", nargs="+", type=int, default=[50, 300], help="of the word vectors")
    parser.add_argument("--units", type=int, default=100, help="of the LSTM, per direction")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=60, help="of a pass")
    parser.add_argument("--until", nargs="+", type=float, help="time whole trainings to these official F1 on dev")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    frames = []
    installed = [name for name in options.contenders if find_spec(CONTENDERS[name][2])]
    if options.until:
        installed = [name for name in installed if name in WHOLE]
    pairs = [(name, count) for name in installed for count in THREADS.get(name, options.threads)]
    for batch, dimension, until in product(options.batch, options.dimension, options.until or [0.0]):
        size = (batch, dimension, options.units, batch * options.batches, until)
        frames.append(measure([Setup(*pair, *size) for pair in pairs], options.rounds))
        goal = f", until {until:g} on dev" if until else ""
        size_line = f"Batch {batch}, dimension {dimension}, {frames[-1]['tokens'].iloc[0]:.0f} tokens a step{goal}"
        print(f"\n{size_line}:\n\n{table(frames[-1])}", flush=True)
    if options.json:
        pd.concat(frames).to_json(options.json, orient="records", indent=1)


if __name__ == "__main__":
    run_worker(Setup(**json.loads(sys.argv[2]))) if sys.argv[1:2] == ["--worker"] else main()
