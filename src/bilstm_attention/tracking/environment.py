"""Describes where a run was made (code, versions, machine, data), and whether the workspace is stale for DVC."""

import getpass
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML

from bilstm_attention import paths
from bilstm_attention.errors import UserError

PACKAGES = ("bilstm-attention", "keras", "tensorflow", "numpy", "pandas", "mlflow", "dvc")


def environment_tags() -> dict[str, str]:
    """Where a run was made: code, versions, machine."""
    # another thread may be importing TensorFlow
    list_devices = getattr(getattr(sys.modules.get("tensorflow"), "config", None), "list_physical_devices", None)
    tags = {
        "mlflow.source.name": "bilstm-attention",
        "mlflow.user": _user(),
        "host": socket.gethostname(),
        "process": str(os.getpid()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": "gpu" if list_devices and list_devices("GPU") else "cpu",
        **{f"version.{name}": importlib.metadata.version(name) for name in PACKAGES},
    }
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc.experiment"] = experiment
    if commit := _git("rev-parse", "HEAD"):
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    return tags


def made_with() -> str:
    """Date, commit, machine and versions in one line, for a document."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("keras", "tensorflow"))
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    if _git("status", "--porcelain", "--", "src", "dvc.yaml", "constraints.txt"):
        commit += " and uncommitted changes"
    return f"{time.strftime('%Y-%m-%d')}, commit {commit}, {machine}, Python {platform.python_version()}, {versions}"


def input_digests() -> dict[str, str]:
    """The digest that `dvc.lock` holds for every output of the stages before training."""
    lock = paths.project_root() / "dvc.lock"
    if not lock.is_file():
        return {}
    stages = (YAML(typ="safe", pure=True).load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    outputs = [out for name in ("prepare", "embed") for out in stages.get(name, {}).get("outs", ())]
    return {f"dvc.lock/{out['path']}": out.get("md5", "") for out in outputs}


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=True, text=True, cwd=paths.project_root())
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # in a container whose user has no name
        return str(os.getuid())


def dvc_status(*targets: str) -> dict[str, list[Any]]:
    """Stages whose parameters, code, data or outputs have changed, each with its reasons, by `dvc status`.

    Of `targets` and the stages before them, or of all. UserError if DVC fails, for instance because it is running.
    """
    command = [sys.executable, "-m", "dvc", "status", "--json", *(("--with-deps", *targets) if targets else ())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=paths.project_root())
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0].removeprefix("ERROR: ")
        raise UserError(f"dvc status: {reason}")
    return dict(json.loads(done.stdout))


def stages_of_other_params(*targets: str) -> set[str]:
    """Stages whose outputs were made with other parameters than those of `params.yaml`; arguments as for `dvc_status`.

    Outputs that DVC did not make, of a command that was run by hand, count as made with those of `params.yaml`.
    """
    stages = set()
    for stage, reasons in dvc_status(*targets).items():
        changed = {kind: files for each in reasons if isinstance(each, dict) for kind, files in each.items()}
        params = changed.get("changed deps", {}).get(str(paths.PARAMS))
        # a text, and no parameters, where DVC has not run the stage
        if isinstance(params, dict) and "modified" in params.values() and "changed outs" not in changed:
            stages.add(stage)
    return stages


def check_up_to_date(since: str, *targets: str) -> None:
    """Raises a UserError that names the stale stages among the targets of `dvc_status`; `since` is for its text."""
    if stale := dvc_status(*targets):
        raise UserError(f"{', '.join(stale)}: changed since {since}; `{' '.join(['dvc repro', *targets])}` first.")


def warn_if_stale(seeds: Sequence[int]) -> None:
    """Warns when the trained models are not those of the present parameters, code and data."""
    try:
        if stale := dvc_status(*(f"train@{seed}" for seed in seeds)):
            changed = f"{', '.join(stale)}: changed since the last training; `dvc repro` trains again."
            print(f"warning: {changed}", file=sys.stderr)
    except UserError as error:
        print(f"warning: whether the model is up to date is not known: {error}", file=sys.stderr)
