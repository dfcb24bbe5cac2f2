"""How fast training is: ours, Keras's LSTM, the well-known Keras snippet, PyTorch and JAX, side by side.

Run in a project after `dvc repro embed`, on a machine with nothing else to do:

    python experiments/benchmarks/throughput.py --json speed.json

The contenders take turns, round by round, each in a process of its own for each number of threads; the fastest counts.
PyTorch and JAX are not dependencies of the project: contenders whose library is missing are left out.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from work import Setup, load_work

# name in a table, module, library
CONTENDERS = {
    "ours": ("ours", "keras_lstm", "keras"),
    "keras": ("ours, Keras's LSTM", "keras_lstm", "keras"),
    "seed": ("the snippet, padded to 100", "keras_lstm", "keras"),
    "torch": ("PyTorch nn.LSTM", "torch_lstm", "torch"),
    "torch unpacked": ("PyTorch nn.LSTM, reading padding", "torch_lstm", "torch"),
    "jax": ("JAX lax.scan", "jax_lstm", "jax"),
}
THREADS = {"seed": [0], "jax": [0]}  # the library decides


def serve(setup: Setup) -> None:
    """Takes one pass that warms up and one that is timed; prints the figures as JSON."""
    take, losses = importlib.import_module(CONTENDERS[setup.contender][1]).contender(setup)
    take()
    started = time.perf_counter()
    done = take()
    print(json.dumps({"losses": losses, "seconds": time.perf_counter() - started, **done}))


def timed(setups: list[Setup], rounds: int) -> list[dict[str, Any]]:
    """Takes turns; returns a timing per setup with what each round printed."""
    setups = [setup for setup in setups if find_spec(CONTENDERS[setup.contender][2])]
    timings: list[dict[str, Any]] = [{**asdict(setup), "rounds": []} for setup in setups]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    for _, (setup, timing) in product(range(rounds), list(zip(setups, timings, strict=True))):
        command = [sys.executable, __file__, "--worker", json.dumps(asdict(setup))]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
        timing["rounds"].append(json.loads(done.stdout.splitlines()[-1]))
    return timings


def seconds(timing: dict[str, Any]) -> list[float]:
    """Of a step, by round."""
    return [one["seconds"] / one["steps"] for one in timing["rounds"]]


def fastest(timings: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each contender."""
    best = {each["contender"]: each for each in sorted(timings, key=lambda each: -statistics.median(seconds(each)))}
    return {name: best[name] for name in CONTENDERS if name in best}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Training steps by size, all contenders held to the same first losses."""
    sizes = []
    for batch, dimension in product(options.batch, options.dimension):
        size = {"batch_size": batch, "dimension": dimension, "sentences": batch * options.batches}
        pairs = [(name, count) for name in options.contenders for count in THREADS.get(name, options.threads)]
        setups = [Setup(name, threads=count, units=options.units, **size) for name, count in pairs]
        timings = timed(setups, options.rounds)
        losses = {each["contender"]: each["rounds"][0]["losses"] for each in timings if each["rounds"][0]["losses"]}
        if losses and np.ptp(list(losses.values()), axis=0).max() > 1e-4:
            raise SystemExit(f"not the same network: first losses {losses}")
        tokens = float(load_work(setups[0]).data.train.lengths.mean()) * batch
        sizes.append({**size, "tokens_a_step": tokens, "losses": losses, "timings": timings})
    return sizes


def tables(sizes: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every contender by size, and ours by threads."""
    by_threads = []
    for size in sizes:
        title = f"Batch {size['batch_size']}, dimension {size['dimension']}, {size['tokens_a_step']:.0f} tokens a step"
        if size["losses"]:
            first, *_, last = np.ptp(list(size["losses"].values()), axis=0)
            title += f"; losses of {', '.join(size['losses'])} within {first:.0e}, after 3 steps within {last:.0e}"
        best, rows = fastest(size["timings"]), []
        for name, timing in best.items():
            step, one = statistics.median(seconds(timing)), timing["rounds"][0]
            row = {"contender": CONTENDERS[name][0], "fastest with": in_words(timing["threads"])}
            row |= {"ms a step": f"{1000 * step:.2f}", "sentences/s": f"{size['batch_size'] / step:,.0f}"}
            row["padding"] = f"{100 * max(0.0, one['cells'] / one['steps'] / size['tokens_a_step'] - 1):.0f} %"
            rows.append({**row, "time, ours = 1": ratio(timing, best.get("ours", timing))})
        yield title, rows
        ours = {each["threads"]: each for each in size["timings"] if each["contender"] == "ours"}
        if {1, 2} <= set(ours):
            row = {"batch": size["batch_size"], "dimension": size["dimension"]}
            row |= {in_words(count): f"{1000 * statistics.median(seconds(ours[count])):.2f}" for count in (1, 2)}
            by_threads.append({**row, "times": ratio(ours[1], ours[2])})
    if by_threads:
        yield "Ours by threads, ms a step", by_threads


def ratio(timing: dict[str, Any], standard: dict[str, Any]) -> str:
    """Median of the ratios within a round, smallest and largest."""
    ratios = [a / b for a, b in zip(seconds(timing), seconds(standard), strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def in_words(threads: int) -> str:
    """A number of threads."""
    return {0: "its own threads", 1: "1 thread"}.get(threads, f"{threads} threads")


def main() -> None:
    """Prints Markdown tables, and writes every figure to a file if it is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 10], help="sentences of a batch")
    parser.add_argument("--dimension", nargs="+", type=int, default=[50, 300], help="of the word vectors")
    parser.add_argument("--units", type=int, default=100, help="of the LSTM, per direction")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=60, help="of a pass")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    sizes = measure(options)
    for title, table in tables(sizes):
        lines = [list(table[0]), ["---"] * len(table[0]), *(list(row.values()) for row in table)]
        print(f"\n{title}:\n\n" + "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))
    if options.json:
        options.json.write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    serve(Setup(**json.loads(sys.argv[2]))) if sys.argv[1:2] == ["--worker"] else main()
