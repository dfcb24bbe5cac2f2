"""The MLflow UI, opened at the list of an experiment's runs: the best on dev first, with the columns that matter."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections import defaultdict
from contextlib import suppress
from tempfile import TemporaryFile
from typing import Any

from bilstm_attention.config import Params, flatten
from bilstm_attention.errors import UserError
from bilstm_attention.tracking.store import artifact_uri, open_store, shown_uri, store_uri

# by default MLflow opens on its side for language-model traces
WORKFLOW = "workflowType=machine_learning"
VIEW, VARIED = "best-on-dev", 20


def save_view(client: Any, experiment: str, monitor: str) -> str:
    """Saves a view of an experiment's runs in MLflow: dev and test score, epoch, and the parameters that vary.

    Returns:
        its address from `#` on; that of all experiments if there is none of this name.
    """
    stored = client.get_experiment_by_name(experiment)
    if stored is None:
        return f"#/experiments?{WORKFLOW}"
    values = defaultdict[str, set[str]](set)
    for run in client.search_runs([stored.experiment_id]):
        for name, value in run.data.params.items():
            values[name].add(value)
    # in the order of params.yaml: the kind of attention stands before what only one kind reads
    varied = [name for name in dict.fromkeys([*flatten(Params()), *sorted(values)]) if len(values[name]) > 1][:VARIED]
    columns = [f"metrics.`{name}`" for name in (f"dev/{monitor}", f"test/{monitor}", "best_epoch")]
    state = {
        "orderByKey": columns[0],
        "orderByAsc": monitor == "loss",
        "selectedColumns": [*columns, *(f"params.`{name}`" for name in varied)],
    }
    view = {"name": "best on dev", "createdAt": stored.creation_time, "state": json.dumps(state)}
    client.set_experiment_tag(stored.experiment_id, f"mlflow.sharedViewState.{VIEW}", json.dumps(view))
    return f"#/experiments/{stored.experiment_id}/runs?{WORKFLOW}&viewStateShareKey={VIEW}"


def open_ui(host: str, port: int, experiment: str, monitor: str, browser: bool) -> None:
    """Serves the project's store until Ctrl-C, unless that is a server itself, and opens the view of `save_view`.

    Raises:
        UserError: the port is taken, or the server ends by itself.
    """
    store, browser = store_uri(), browser and _has_screen()
    if store.startswith("http"):
        page = f"{re.sub('//[^/]*@', '//', store).rstrip('/')}/{save_view(open_store(), experiment, monitor)}"
        print(page)
        if browser:
            webbrowser.open(page)
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"{host}:{port}: {error.strerror}; choose another with --port.") from None
    page = f"http://{host}:{port}/{save_view(open_store(), experiment, monitor)}"
    command = [sys.executable, "-m", "mlflow", "ui", "--default-artifact-root", artifact_uri(), "--workers", "1"]
    command += ["--host", host, "--port", str(port), "--uvicorn-opts", "--log-level warning"]
    # in the environment, since anyone on the machine may read a process's arguments, and an address may hold a password
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": store}
    # jobs for judging language models: eight more processes, and four times the memory
    environment.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # not on the terminal, since Ctrl-C would print a traceback
    with TemporaryFile("w+") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while server.poll() is None and not _is_taken(host, port):
                time.sleep(0.2)
            if server.poll() is None:
                print(f"{page}\nshows {shown_uri()}; Ctrl-C ends it.", flush=True)
                if browser:
                    webbrowser.open(page)
                server.wait()
            log.seek(0)
            raise UserError(f"MLflow ended: {(log.read().strip().splitlines() or ['no reason given'])[-1]}")
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        finally:
            server.terminate()
            server.wait()


def _has_screen() -> bool:
    """Whether a browser would open in a window, and not in the terminal."""
    shown = sys.platform != "linux" or any(name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return shown and sys.stdout.isatty()


def _is_taken(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False
