"""Preparing a corpus on a Dask cluster: the bytes are those of one process, and its errors are plain."""

import shutil
from pathlib import Path

import pytest
from tests.servers import DaskCluster, dask_cluster, free_port

from bilstm_attention import paths, stages
from bilstm_attention.config import Data
from bilstm_attention.data import corpus, prepare
from bilstm_attention.data.corpus import index_corpus
from bilstm_attention.data.prepare import CHUNKS_PER_THREAD, encode_on_cluster
from bilstm_attention.errors import DataError, UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's parameters and sample, which is cut into many chunks."""
    shutil.copytree(ROOT / "data/sample", tmp_path / "data/sample")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpus.index_corpus, "__defaults__", (300,))
    return tmp_path


def outputs() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths.PREPARED.iterdir()}


def test_cluster_prepares_the_same_bytes(project: Path, dask: DaskCluster) -> None:
    stages.prepare()
    expected = outputs()
    shutil.rmtree(paths.PREPARED)
    stages.prepare(dask.address)
    assert outputs() == expected
    assert len(expected) == 6
    assert len(index_corpus(Data()).chunks) == 13


def test_results_ahead_of_the_writer_are_bounded(
    project: Path, dask: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client

    submitted, submit = [], Client.submit
    monkeypatch.setattr(Client, "submit", lambda *args, **kwargs: submitted.append(1) or submit(*args, **kwargs))
    tables = encode_on_cluster(dask.address, index_corpus(Data()).chunks, Data())
    first = next(tables)
    assert first["id"].to_pylist() == [str(number) for number in range(1, 301)]
    assert len(submitted) == CHUNKS_PER_THREAD * 2
    assert [len(table) for table in tables][-1] == 200
    assert len(submitted) == 13


def test_cluster_reports_the_faults_of_one_process(project: Path, dask: DaskCluster) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("max_length: 100", "max_length: 9"))
    messages = []
    for address in (None, dask.address):
        with pytest.raises(DataError) as caught:
            stages.prepare(address)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith("data/sample/train.txt:")
    assert not any(paths.PREPARED.iterdir())


def test_worker_without_the_corpus_is_an_error(project: Path, dask: DaskCluster) -> None:
    chunks = index_corpus(Data()).chunks
    shutil.rmtree("data/sample")
    with pytest.raises(DataError, match=r"--dask .*: a worker does not see .*data/sample/train.txt; put the project"):
        list(encode_on_cluster(dask.address, chunks, Data()))


def test_missing_scheduler_or_workers_is_an_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "SECONDS_TO_CONNECT", 1)
    chunks = index_corpus(Data()).chunks
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=f"--dask {address}: no Dask scheduler answers there"):
        next(encode_on_cluster(address, chunks, Data()))
    with dask_cluster(workers=1) as cluster:
        cluster.workers[0].kill()
        cluster.workers[0].wait()
        with pytest.raises(UserError, match="has no workers; start some: dask worker"):
            next(encode_on_cluster(cluster.address, chunks, Data()))
