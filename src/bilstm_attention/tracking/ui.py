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
from tempfile import TemporaryFile
from typing import Any

from bilstm_attention.errors import UserError
from bilstm_attention.tracking.store import artifact_uri, open_store, shown_uri, store_uri

# MLflow opens on its side for language-model traces unless told otherwise
WORKFLOW = "workflowType=machine_learning"
VIEW, VARIED = "best-on-dev", 20
# In the environment, since anyone on the machine may read a process's arguments, and an address may hold a password.
# Jobs for judging language models would be eight more processes, and four times the memory.
SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}


def save_view(client: Any, experiment: str, monitor: str) -> str:
    """Saves a view of an experiment's runs in MLflow: dev and test score, epoch, and the parameters that vary.

    Args:
        client: of the store.
        experiment: its name.
        monitor: `train.monitor`.

    Returns:
        the address of the view, from `#` on; that of all experiments if the store lacks this one.
    """
    stored = client.get_experiment_by_name(experiment)
    if stored is None:
        return f"#/experiments?{WORKFLOW}"
    values = defaultdict[str, set[str]](set)
    for run in client.search_runs([stored.experiment_id]):
        for name, value in run.data.params.items():
            values[name].add(value)
    varied = [name for name in sorted(values) if len(values[name]) > 1][:VARIED]
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
    """Serves the project's store until Ctrl-C, unless that is a server itself.

    Args:
        host: address to listen on.
        port: to listen on.
        experiment: see `save_view`, as for `monitor`.
        monitor: the score that sorts the runs.
        browser: whether a browser opens, if there is a terminal and a screen.

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
    print(f"{page}\nshows {shown_uri()}; Ctrl-C ends it.", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--default-artifact-root", artifact_uri(), "--workers", "1"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # the server logs every request, and a traceback on Ctrl-C
    with TemporaryFile("w+") as log:
        server = subprocess.Popen(
            [*command, "--host", host, "--port", str(port)],
            env={**SETTINGS, **os.environ, "MLFLOW_BACKEND_STORE_URI": store},
            stdout=log,
            stderr=log,
        )
        try:
            if browser:
                _wait_until_it_answers(server, host, port)
                webbrowser.open(page)
            server.wait()
            log.seek(0)
            raise UserError(f"the server ended: {(log.read().strip().splitlines() or ['no reason given'])[-1]}")
        except KeyboardInterrupt:
            print()
        finally:
            server.terminate()
            server.wait()


def _has_screen() -> bool:
    """Whether a browser would open in a window, and not in the terminal."""
    shown = sys.platform != "linux" or any(name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return shown and sys.stdout.isatty()


def _wait_until_it_answers(server: "subprocess.Popen[bytes]", host: str, port: int) -> None:
    while server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.2)
