"""The commands about the tracking store: send it what it missed, and browse it."""

import os
import sys
from collections import Counter

from bilstm_attention.errors import UserError
from bilstm_attention.tracking import outbox
from bilstm_attention.tracking import store as tracking


def sync(everything: bool) -> None:
    """Sends the records that were kept while the store did not answer, and says how many, and what is left.

    Args:
        everything: also those that another store missed.

    Raises:
        UserError: the store does not answer, or refuses some.
    """
    kept, store = outbox.waiting(), tracking.shown_uri()
    others = Counter(missed_by for _, missed_by in kept if missed_by != store and not everything)
    try:
        faults = outbox.deliver(None if everything else store)
    except Exception as error:
        faults = [tracking.reason_of(error)]
    print(f"{store}: {len(kept) - len(outbox.waiting())} of {len(kept) - others.total()} kept records sent.")
    for other, number in others.items():
        print(f"Missed by {other}: {number} more; set MLFLOW_TRACKING_URI to it, or say --all to send them here.")
    if faults:
        raise UserError("\n".join(faults))


def browse(host: str, port: int) -> None:
    """Becomes MLflow's server of the project's store, unless that is a server itself."""
    store = tracking.store_uri()
    if store.startswith("http"):
        print(f"{tracking.shown_uri()} is a tracking server, and shows its runs itself.")
        return
    # MLflow opens on its side for language-model traces unless told otherwise
    page = f"http://{host}:{port}/#/experiments?workflowType=machine_learning"
    print(f"{page} shows {tracking.shown_uri()}; Ctrl-C ends it.", flush=True)
    address = ["--host", host, "--port", str(port), "--workers", "1"]
    # in the environment, since anyone on the machine may read a process's arguments, and an address may hold a password
    os.environ["MLFLOW_BACKEND_STORE_URI"] = store
    # for judging language models: eight more processes, and four times the memory
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    arguments = ["ui", "--default-artifact-root", tracking.artifact_uri(), *address]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments])
