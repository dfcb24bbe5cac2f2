"""A copy of this project with a small model, a git repository of its own, in which DVC really runs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).parents[1]
# A model small enough to train in seconds; every test here is about the pipeline, not about scores.
SMALL = [
    "model.lstm_units=8",
    "train.epochs=3",
    "embeddings.epochs=1",
    "evaluate.bootstrap=100",
    "evaluate.faithfulness=20",
]


@dataclass
class Project:
    root: Path

    def environment(self, **extra: str) -> dict[str, str]:
        bin_folder = str(Path(sys.executable).parent)
        # as from a user's shell: this process has set TensorFlow's variables for itself
        own_settings = ("MLFLOW_", "DVC_", "TF_")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(own_settings)}
        own = {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(self.root / "src")}
        return inherited | own | {"GIT_CONFIG_GLOBAL": os.devnull, "BILSTM_ATTENTION_THREADS": "1"} | extra

    def run(self, *command: str, check: bool = True, extra: Mapping[str, str] = MappingProxyType({})) -> str:
        """Runs a command in the project, with `extra` in its environment; returns what it printed."""
        environment = self.environment(**extra)
        done = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=1800, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout + done.stderr

    def apply(self, *overrides: str) -> None:
        self.run("bilstm-attention", "apply", *(part for override in overrides for part in ("-S", override)))

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", message)

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def outputs(self) -> dict[str, bytes]:
        """Every file that a stage writes."""
        folders = ("data/prepared", "data/embeddings", "experiments/current")
        files = [file for folder in folders for file in sorted((self.root / folder).rglob("*")) if file.is_file()]
        return {str(file.relative_to(self.root)): file.read_bytes() for file in files}


def copy_project(folder: Path, mlflow_store: Path | None = None) -> Project:
    """Copies this project, untracked files too, into a folder; with a store, whose initialisation takes seconds."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    if mlflow_store:
        shutil.copy(mlflow_store, folder / "experiments/mlflow.db")
    project = Project(folder)
    project.run("git", "init", "-q", "-b", "main")
    project.apply(*SMALL)
    project.commit("small")
    return project
