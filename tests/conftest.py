"""Where the tests find real data; it is no part of the project, and what needs it is skipped without it."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with semeval2010-task8 (scorer-examples in it), glove and mr."""
    beside = Path(__file__).parents[2] / "shared/data"
    folder = Path(os.environ.get("BILSTM_ATTENTION_DATA") or beside).resolve()
    if not all((folder / name).is_dir() for name in ("semeval2010-task8", "glove", "mr")):
        pytest.skip("real data is not here: set BILSTM_ATTENTION_DATA to a folder with semeval2010-task8, glove and mr")
    return folder
