"""What can be measured: for each, who takes part, and what was found, as plain data."""

import argparse
import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from crew import Timing, installed, timed
from sgemm import FLOP
from work import Setup, flop, load_work

CONTENDERS = ("ours", "keras", "seed", "torch", "torch unpacked", "jax")
# The snippet runs as it comes; XLA's threads are its own, or one.
THREADS = {"seed": [0], "jax": [0, 1]}
LENGTHS = (8, 16, 24, 32, 48, 64, 100)
SENTENCES = (2_000, 4_000, 8_000, 16_000, 32_000)
WORDS = (20_000, 100_000, 400_000)
# Of the losses of one network in several libraries, in nats.
TOLERANCE = 1e-4


def steps(given: argparse.Namespace) -> dict[str, Any]:
    """Training steps of every contender, by batch size and dimension; first of all the peak of the machine."""
    contenders = list(installed(given.contenders))
    found: dict[str, Any] = {"sgemm": sgemm(given), "sizes": []}
    for batch in given.batch:
        for dimension in given.dimension:
            options = {"batch_size": batch, "dimension": dimension, "sentences": batch * given.batches}
            setups = [
                Setup(name, threads=threads, units=given.units, clip_norm=given.clip_norm or None, **options)
                for name in contenders
                for threads in THREADS.get(name, given.threads)
            ]
            print(f"batch {batch}, dimension {dimension}", flush=True)
            timings, losses = timed(setups, given.rounds)
            work = load_work(setups[0])
            found["sizes"].append(
                {
                    **options,
                    "tokens_a_step": float(work.task.train.lengths.mean()) * batch,
                    "flop_a_step": flop(work, setups[0]),
                    "losses": agreed({s.contender: found for s, found in zip(setups, losses, strict=True) if found}),
                    "contenders": summary([timing for each in timings for timing in each]),
                }
            )
    return found


def agreed(losses: dict[str, list[float]]) -> dict[str, list[float]]:
    """The losses of the first steps by contender, once they have been held against each other."""
    for name, found in losses.items():
        print(f"losses of the first steps, {name}: {', '.join(f'{loss:.6f}' for loss in found)}", flush=True)
    if losses and np.ptp(list(losses.values()), axis=0).max() > TOLERANCE:
        raise SystemExit(f"the losses differ by more than {TOLERANCE}: these are not the same network")
    return losses


def summary(timings: Sequence[Timing]) -> dict[str, Any]:
    """By contender: its fastest variant, what of ours its time is, by round, and every timing."""
    by_name: dict[str, list[Timing]] = {}
    for timing in timings:
        by_name.setdefault(timing.contender, []).append(timing)
    best = {name: min(each, key=lambda timing: statistics.median(timing.seconds)) for name, each in by_name.items()}
    return {
        name: {
            "threads": best[name].threads,
            "variant": best[name].variant,
            "seconds_a_step": statistics.median(best[name].seconds),
            "cells_a_step": best[name].rounds[0].get("cells", 0) / best[name].rounds[0]["steps"],
            "times_ours": ratios(best[name], best["ours"]) if "ours" in best else [],
            "timings": [asdict(timing) for timing in by_name[name]],
        }
        for name in by_name
    }


def ratios(timing: Timing, to: Timing) -> list[float]:
    """By round, seconds of a step over those of another."""
    return [a / b for a, b in zip(timing.seconds, to.seconds, strict=True)]


def sgemm(given: argparse.Namespace) -> dict[str, float]:
    """GFLOP/s by number of threads, of the faster library and its fastest round."""
    names = list(installed(("sgemm tensorflow", "sgemm torch")))
    setups = [Setup(name, threads=threads) for name in names for threads in given.threads]
    found: dict[str, float] = {}
    for (timing,) in timed(setups, given.rounds)[0]:
        rate = FLOP / min(timing.seconds) / 1e9
        found[str(timing.threads)] = max(rate, found.get(str(timing.threads), 0.0))
    return found


def parts(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of ever larger parts of our training step, by batch size and dimension; median of the rounds."""
    found = []
    for batch, dimension in itertools.product(given.batch, given.dimension):
        options = {"batch_size": batch, "dimension": dimension, "sentences": batch * given.batches}
        common = {"threads": max(given.threads), "units": given.units, "clip_norm": given.clip_norm or None}
        ((timings,), _) = timed([Setup("ours", "parts", **common, **options)], given.rounds)
        seconds = {timing.variant: statistics.median(timing.seconds) for timing in timings}
        found.append({**options, **common, "seconds_a_step": seconds, "timings": [asdict(each) for each in timings]})
    return {"sizes": found}


def lengths(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one bidirectional LSTM by dimension, contender and length, of the fastest variant and threads."""
    contenders = [name for name in installed(given.contenders) if name not in ("seed", "torch unpacked")]
    batch, found = given.batch[0], {}
    for dimension in given.dimension:
        options: dict[str, Any] = {"batch_size": batch, "dimension": dimension, "units": given.units}
        setups = [
            Setup(name, "layer", threads, lengths=LENGTHS, **options)
            for name in contenders
            for threads in THREADS.get(name, given.threads)
        ]
        timings = [timing for each in timed(setups, given.rounds)[0] for timing in each]
        found[str(dimension)] = {
            str(length): summary([timing for timing in timings if timing.variant == str(length)]) for length in LENGTHS
        }
    return {"batch_size": batch, "dimensions": found}


def rows(given: argparse.Namespace) -> dict[str, Any]:
    """Whole epochs of ours by sentences."""
    return of_ours(given, "sentences", SENTENCES)


def rows_of_vocabulary(given: argparse.Namespace) -> dict[str, Any]:
    """Steps of ours by words in the vocabulary."""
    return of_ours(given, "vocabulary", WORDS)


def of_ours(given: argparse.Namespace, option: str, values: Iterable[int]) -> dict[str, Any]:
    """Epochs of ours by one option, the rest being equal, with the most threads given."""
    common: dict[str, Any] = {"batch_size": given.batch[0], "dimension": given.dimension[0], "units": given.units}
    common |= {"sentences": given.batches * given.batch[0], "clip_norm": given.clip_norm or None}
    common["threads"] = max(given.threads)
    setups = [Setup("ours", **{**common, option: value}) for value in values]
    timings, _ = timed(setups, given.rounds)
    return {
        "option": option,
        "common": common,
        "values": [
            {option: getattr(setup, option), "timing": asdict(timing), "seconds_a_step": timing.seconds}
            for setup, (timing,) in zip(setups, timings, strict=True)
        ],
    }


def runs(given: argparse.Namespace) -> dict[str, Any]:
    """Trainings to one accuracy on dev, a round being a seed; importing the library and reading data are not timed."""
    options: dict[str, Any] = {"batch_size": given.batch[0], "dimension": given.dimension[0], "units": given.units}
    setups = [
        Setup(name, "run", threads, score=given.score, clip_norm=given.clip_norm or None, **options)
        for name, threads in (("ours", max(given.threads)), ("seed", 0))
    ]
    timings, _ = timed(setups, given.rounds)
    return {**options, "score": given.score, "contenders": summary([timing for (timing,) in timings])}
