"""The processes that are timed: one per contender and number of threads, and only one of them at work at a time."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from work import Contender, Setup

# module of this folder, and the library it needs that the project does not
CONTENDERS = {
    "ours": ("keras_lstm", "keras"),
    "keras": ("keras_lstm", "keras"),
    "seed": ("snippet", "keras"),
    "torch": ("torch_lstm", "torch"),
    "torch unpacked": ("torch_lstm", "torch"),
    "jax": ("jax_lstm", "jax"),
    "sgemm tensorflow": ("sgemm", "tensorflow"),
    "sgemm torch": ("sgemm", "torch"),
}
ENTRY = Path(__file__).parents[1] / "throughput.py"
INSTALL = "pip install torch==2.13.0 jax==0.10.2"


@dataclass
class Timing:
    """The seconds of each round of one variant, and what each pass of it did."""

    contender: str
    threads: int
    variant: str
    rounds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """Of a step, by round."""
        return [each["seconds"] / each["steps"] for each in self.rounds]


class Worker:
    """A process that waits until it is asked to take a pass."""

    def __init__(self, setup: Setup):
        self.setup = setup
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if setup.contender == "jax" and setup.threads:
            # XLA's CPU client counts the cores that it may use; this flag is of the products alone
            environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        command = [sys.executable, str(ENTRY), "--worker", json.dumps(asdict(setup))]
        pipe = subprocess.PIPE
        # a file takes all that libraries say, where a pipe that nobody reads would fill and stop the process
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `end`)
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.said, text=True, env=environment)
        ready = self._answer()
        self.variants: list[str] = ready["variants"]
        self.losses: list[float] = ready["losses"]

    def take(self, variant: str) -> dict[str, Any]:
        """Takes a pass; returns its `seconds` and what it did."""
        assert self.process.stdin
        self.process.stdin.write(variant + "\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()
        self.said.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.said.seek(0)
            raise RuntimeError(f"{self.setup} ended:\n{self.said.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(setup: Setup) -> None:
    """Takes passes as it is asked to on standard input, until that ends."""
    # what libraries print goes the way of errors
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    if setup.contender == "jax" and setup.threads:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: setup.threads])
    module = importlib.import_module(CONTENDERS[setup.contender][0])
    contender: Contender = module.contender(setup)
    for take in contender.passes.values() if contender.warm else ():
        take()
    say({"variants": list(contender.passes), "losses": contender.losses})
    for line in sys.stdin:
        take = contender.passes[line.strip()]
        begun = time.perf_counter()
        did = take()
        say({"seconds": time.perf_counter() - begun, **did})


def installed(contenders: Iterable[str]) -> Iterator[str]:
    """Those whose library is there; says of the others what would bring them."""
    for name in contenders:
        if find_spec(CONTENDERS[name][1]):
            yield name
        else:
            print(f"{name} is left out: {CONTENDERS[name][1]} is not installed ({INSTALL})", flush=True)


def timed(setups: Sequence[Setup], rounds: int) -> tuple[list[list[Timing]], list[list[float]]]:
    """Takes every pass of every setup once a round; returns timings and first losses, by setup."""
    with ExitStack() as stack:
        crew = []
        for setup in setups:
            crew.append(Worker(setup))
            stack.callback(crew[-1].end)
        found = [[Timing(w.setup.contender, w.setup.threads, variant) for variant in w.variants] for w in crew]
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for worker, timings in zip(crew, found, strict=True):
                for timing in timings:
                    timing.rounds.append(worker.take(timing.variant))
        return found, [worker.losses for worker in crew]
