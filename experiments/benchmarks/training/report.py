"""What was measured, as tables and pictures."""

import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bilstm_attention.reports.plots import BAR, DIM, SEED_COLOURS, house_style, write

NAMES = {
    "ours": "ours",
    "keras": "ours, Keras's LSTM",
    "seed": "the snippet, padded to 100",
    "torch": "PyTorch nn.LSTM",
    "torch unpacked": "PyTorch nn.LSTM, reading padding",
    "jax": "JAX lax.scan",
}
PARTS = {
    "call": "padding, call",
    "forward": "forward",
    "gradient": "gradients",
    "step": "penalty, clipping, update",
}
MARKERS = {"ours": "o", "keras": "s", "torch": "^", "jax": "D"}
Titled = Iterator[tuple[str, pd.DataFrame]]


def tables(measure: str, found: Mapping[str, Any]) -> Titled:
    """Titles and tables of what was measured."""
    yield from TABLES[measure](found)


def written(table: pd.DataFrame, markdown: bool) -> str:
    """A table of text, as it is read or in Markdown."""
    if not markdown:
        return str(table.to_string(index=False))
    lines: list[list[Any]] = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _steps(found: Mapping[str, Any]) -> Titled:
    peaks = found["sgemm"]
    one, most = peaks.get("1"), max(peaks.values())
    told = ", ".join(f"{rate:.0f} GFLOP/s with {_threads(int(threads))}" for threads, rate in peaks.items())
    for size in found["sizes"]:
        lines = []
        for name, each in size["contenders"].items():
            rate = size["flop_a_step"] / each["seconds_a_step"] / 1e9
            line = {
                "contender": NAMES[name],
                "fastest as": f"{each['variant']}, {_threads(each['threads'])}",
                "ms a step": f"{1000 * each['seconds_a_step']:.2f}",
                "sentences/s": f"{size['batch_size'] / each['seconds_a_step']:,.0f}",
                "padding": f"{100 * max(0.0, each['cells_a_step'] / size['tokens_a_step'] - 1):.0f} %",
                "GFLOP/s": f"{rate:.1f}",
                "of sgemm": f"{100 * rate / most:.0f} %",
            }
            if one:
                line["of sgemm, one core"] = f"{100 * rate / one:.0f} %"
            lines.append({**line, "time, ours = 1": _spread(each["times_ours"])})
        title = f"Batch {size['batch_size']}, dimension {size['dimension']}, {size['tokens_a_step']:.0f} tokens a step"
        if size["losses"]:
            first, *_, last = np.ptp(list(size["losses"].values()), axis=0)
            title += f"; losses of {', '.join(size['losses'])} within {first:.0e}, after 3 steps within {last:.0e}"
        yield f"{title}; sgemm: {told}", pd.DataFrame(lines)
    yield from _by_threads(found["sizes"])


def _by_threads(sizes: Sequence[Mapping[str, Any]]) -> Titled:
    """Ours with one thread and with two, where both were measured."""
    lines = []
    for size in sizes:
        rounds = {
            timing["threads"]: [each["seconds"] / each["steps"] for each in timing["rounds"]]
            for timing in size["contenders"].get("ours", {}).get("timings", [])
        }
        if {1, 2} <= set(rounds):
            lines.append(
                {
                    "batch": size["batch_size"],
                    "dimension": size["dimension"],
                    **{_threads(count): f"{1000 * statistics.median(rounds[count]):.2f}" for count in (1, 2)},
                    "times": _spread([one / two for one, two in zip(rounds[1], rounds[2], strict=True)]),
                }
            )
    if lines:
        yield "Ours by threads, ms a step", pd.DataFrame(lines)


def _parts(found: Mapping[str, Any]) -> Titled:
    lines = []
    for size in found["sizes"]:
        seconds, before = size["seconds_a_step"], 0.0
        line = {"batch": size["batch_size"], "dimension": size["dimension"]}
        for name, part in PARTS.items():
            line[part] = f"{1000 * (seconds[name] - before):.2f}"
            before = seconds[name]
        lines.append({**line, "whole step": f"{1000 * before:.2f}"})
    yield "Where the time of a step goes, ms", pd.DataFrame(lines)


def _lengths(found: Mapping[str, Any]) -> Titled:
    for dimension, by_length in found["dimensions"].items():
        lines = [
            {"T": length, **{NAMES[name]: f"{1000 * each['seconds_a_step']:.2f}" for name, each in contenders.items()}}
            for length, contenders in by_length.items()
        ]
        title = f"One bidirectional LSTM, forward and backward, ms: batch {found['batch_size']}, dimension {dimension}"
        yield title, pd.DataFrame(lines)


def _of_ours(found: Mapping[str, Any]) -> Titled:
    option, values = found["option"], found["values"]
    standard = values[2 if option == "sentences" else 0]
    lines = []
    for value in values:
        # a step has as many sentences everywhere, so time by sentence and time by step stand in the same ratio
        ratios = [a / b for a, b in zip(value["seconds_a_step"], standard["seconds_a_step"], strict=True)]
        epoch = statistics.median(each["seconds"] for each in value["timing"]["rounds"])
        lines.append(
            {
                option: f"{value[option]:,}",
                "s an epoch": f"{epoch:.2f}",
                "ms a step": f"{1000 * statistics.median(value['seconds_a_step']):.2f}",
                f"a step, {standard[option]:,} = 1": _spread(ratios),
            }
        )
    common = found["common"]
    title = f"Ours by {option}, batch {common['batch_size']}, dimension {common['dimension']}"
    yield f"{title}, {_threads(common['threads'])}", pd.DataFrame(lines)


def _runs(found: Mapping[str, Any]) -> Titled:
    lines = []
    for name, each in found["contenders"].items():
        rounds = each["timings"][0]["rounds"]
        lines.append(
            {
                "contender": NAMES[name],
                "seconds": f"{each['seconds_a_step']:.1f}",
                "epochs": ", ".join(str(len(one["curve"])) for one in rounds),
                "dev accuracy": ", ".join(f"{one['curve'][-1]['accuracy']:.1f}" for one in rounds),
                "reached": f"{sum(one['reached'] for one in rounds)} of {len(rounds)}",
                "time, ours = 1": _spread(each["times_ours"]),
            }
        )
    yield f"A training to {found['score']:g} % of dev right, batch {found['batch_size']}", pd.DataFrame(lines)


def _spread(ratios: list[float]) -> str:
    if not ratios:
        return ""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _threads(threads: int) -> str:
    return {0: "its own threads", 1: "1 thread"}.get(threads, f"{threads} threads")


@house_style
def plot(measure: str, found: Mapping[str, Any], path: Path) -> None:
    """Draws what was measured to a PNG file."""
    figure = Figure(figsize=(9, 3.6 if measure != "step" else 1.9 * len(found["sizes"])), layout="constrained")
    PLOTS[measure](figure, found)
    write(figure, path)


def _plot_steps(figure: Figure, found: Mapping[str, Any]) -> None:
    rows = -(-len(found["sizes"]) // 2)
    for axes, size in zip(figure.subplots(rows, 2, squeeze=False).flat, found["sizes"], strict=False):
        names = list(size["contenders"])
        milliseconds = [1000 * size["contenders"][name]["seconds_a_step"] for name in names]
        colours = [SEED_COLOURS[0] if name == "ours" else BAR for name in names]
        axes.barh([NAMES[name] for name in names], milliseconds, color=colours)
        for place, value in enumerate(milliseconds):
            axes.text(value, place, f" {value:.1f}", va="center")
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set(title=f"batch {size['batch_size']}, dimension {size['dimension']}", xlabel="ms a training step")
        axes.set_xlim(0, 1.15 * max(milliseconds))


def _plot_parts(figure: Figure, found: Mapping[str, Any]) -> None:
    axes, sizes = figure.subplots(), found["sizes"]
    names = [f"batch {size['batch_size']}, dimension {size['dimension']}" for size in sizes]
    before = [0.0] * len(sizes)
    for colour, (name, part) in zip(SEED_COLOURS, PARTS.items(), strict=False):
        upto = [1000 * size["seconds_a_step"][name] for size in sizes]
        axes.barh(names, [a - b for a, b in zip(upto, before, strict=True)], left=before, color=colour, label=part)
        before = upto
    axes.invert_yaxis()
    axes.set(xlabel="ms a training step")
    figure.legend(loc="outside upper center", ncols=4)


def _plot_lengths(figure: Figure, found: Mapping[str, Any]) -> None:
    dimensions = found["dimensions"]
    for axes, (dimension, by_length) in zip(
        figure.subplots(1, len(dimensions), squeeze=False).flat, dimensions.items(), strict=True
    ):
        lengths = [int(length) for length in by_length]
        for colour, name in zip(SEED_COLOURS, next(iter(by_length.values())), strict=False):
            times = [1000 * each[name]["seconds_a_step"] for each in by_length.values()]
            axes.loglog(lengths, times, marker=MARKERS[name], color=colour, label=NAMES[name])
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.xaxis.set_minor_locator(NullLocator())
        low, high = axes.get_ylim()
        axes.set_yticks([tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100, 200) if low < tick < high])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(visible=True)
        title = f"batch {found['batch_size']}, dimension {dimension}"
        axes.set(title=title, xlabel="tokens of a sentence", ylabel="ms, forward and backward")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)


def _plot_of_ours(figure: Figure, found: Mapping[str, Any]) -> None:
    option, values = found["option"], found["values"]
    axes = figure.subplots()
    for number, value in enumerate(values):
        times = [1000 * seconds for seconds in value["seconds_a_step"]]
        axes.plot([number] * len(times), times, "o", color=DIM, markerfacecolor="white")
        axes.plot([number], [statistics.median(times)], "_", color=SEED_COLOURS[0], markersize=30, markeredgewidth=2)
    axes.set_xticks(range(len(values)), [f"{value[option]:,}" for value in values])
    axes.set(xlabel=option, ylabel="ms a step; bar: median", ylim=(0, None))
    axes.grid(visible=True, axis="y")


def _plot_runs(figure: Figure, found: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    for colour, (name, each) in zip(SEED_COLOURS, found["contenders"].items(), strict=False):
        for number, one in enumerate(each["timings"][0]["rounds"]):
            seconds, accuracy = ([row[key] for row in one["curve"]] for key in ("seconds", "accuracy"))
            axes.plot(seconds, accuracy, marker=".", color=colour, label=NAMES[name] if not number else None)
    axes.axhline(found["score"], color=DIM, linewidth=0.8)
    axes.set(xlabel="seconds", ylabel="dev accuracy (percent)", ylim=(0, None))
    axes.grid(visible=True)
    figure.legend(loc="outside upper center", ncols=2)


TABLES = {
    "step": _steps,
    "parts": _parts,
    "length": _lengths,
    "rows": _of_ours,
    "rows_of_vocabulary": _of_ours,
    "run": _runs,
}
PLOTS = {
    "step": _plot_steps,
    "parts": _plot_parts,
    "length": _plot_lengths,
    "rows": _plot_of_ours,
    "rows_of_vocabulary": _plot_of_ours,
    "run": _plot_runs,
}


def machine() -> dict[str, Any]:
    """Processor, cores, versions and date."""
    libraries: dict[str, str] = {}
    for name in ("tensorflow", "keras", "torch", "jax", "numpy"):
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    processor = next((line.partition(": ")[2] for line in facts.splitlines() if "model name" in line), "")
    return {
        "processor": processor or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": libraries,
        "date": date.today().isoformat(),
    }


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine in a line."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return f"{machine['processor']}, {machine['cores']} cores; {versions}; {machine['date']}"
