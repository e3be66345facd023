"""The mirror against a real SQLite store: following, rebuilding, and what is on show."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import threading
import time

import pytest
from mlflow_store import PARAMS, artifacts, client, contents, follow, rows

from sslpipe.tracking import journal, mlflow, notes
from sslpipe.tracking.record import Config
from sslpipe.tracking.store import recent_outage, store_uri, ui_address
from sslpipe.tracking.sync import _Follower, sync

# MLflow and SQLAlchemy warn about things of their own.
pytestmark = [pytest.mark.filterwarnings(f"ignore:::{name}") for name in ("mlflow", "sqlalchemy", "alembic")]

TOY = Config(experiment="toy")
KEY, OTHER = "a" * 16, "b" * 16


def test_four_processes_can_start_on_a_new_store_at_once(fresh_store):
    assert fresh_store[1] == [0, 0, 0, 0]


def test_experiment_is_one_row_with_its_stages_under_it(store, pipeline):
    ids = pipeline()
    follow()
    parents, children = rows()
    parent = parents[KEY]
    assert parent.info.run_name == "simclr · small_resnet · toy · aaaaaa"
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {name: str(value) for name, value in PARAMS.items()}
    assert parent.data.metrics == {"knn.top1": 0.9, "knn.random_init_top1": 0.5}
    assert {parent.data.tags[f"stage.{stage}"] for stage in ids} == {
        f"executed:{run}" for run in ids.values()
    }
    assert "| knn | 0.9000 | 0.5000 | – |" in parent.data.tags["mlflow.note.content"]
    assert artifacts(parent.info.run_id) == ["report/index.html"]
    assert [item.dataset.digest for item in parent.inputs.dataset_inputs] == ["d" * 36]
    assert set(children) == set(ids.values())
    assert {child.data.tags["mlflow.parentRunId"] for child in children.values()} == {parent.info.run_id}
    assert {child.info.status for child in children.values()} == {"FINISHED"}
    pretrain, knn = children[ids["pretrain"]], children[ids["knn"]]
    assert len(client().get_metric_history(pretrain.info.run_id, "loss")) == 1500
    assert pretrain.inputs.dataset_inputs[0].dataset.name == "toy"
    assert knn.data.params == {"knn.k": "5", "seed": "0"}
    assert artifacts(knn.info.run_id) == ["environment.json", "plots/knn/confusion.png"]
    assert not list(notes.pending().glob("*.json"))
    # The store holds nothing else to look at, and the page that `make ui` opens has the headline columns.
    experiment = client().get_experiment_by_name("toy")
    view = json.loads(experiment.tags["mlflow.sharedViewState.sslpipe"])
    assert "metrics.`knn.top1`" in view["selectedColumns"]
    assert "metrics.`knn.random_init_top1`" not in view["selectedColumns"]
    assert f"/experiments/{experiment.experiment_id}/runs" in ui_address(TOY)
    assert "Default" not in [found.name for found in client().search_experiments()]


def test_running_stage_is_shown_while_it_runs_as_if_it_was_synced_later(
    store, project, record, fresh_store, monkeypatch
):
    with record("pretrain") as run:
        run.metric("loss", 2.0, 1)
        watcher = _Follower()
        (note,) = notes.waiting()
        watcher.serve(note)
        parents, children = rows()
        assert parents[KEY].info.status == children[run.id].info.status == "RUNNING"
        assert children[run.id].data.metrics == {"loss": 2.0}
        run.metric("loss", 1.0, 2)
        watcher.serve(note)
        assert rows()[1][run.id].data.metrics == {"loss": 1.0}
        run.metric("loss", 0.5, 2)  # said again
        run.result({"top1": 0.5, "by_k": {"5": 0.25}}, {"k": 5})
    watcher.serve(note)
    child = rows()[1][run.id]
    assert child.info.status == "FINISHED"
    assert child.data.metrics == {"loss": 0.5, "top1": 0.5, "by_k.5": 0.25}
    assert child.data.tags["protocol"] == '{"k": 5}'
    assert rows()[0][KEY].data.metrics == {"pretrain.top1": 0.5, "pretrain.by_k.5": 0.25}
    assert notes.waiting() == []
    sync(TOY)  # shows the experiment, which no stage has completed, as no longer running
    before = contents()
    shutil.rmtree(project / "mlartifacts")
    shutil.copy(fresh_store[0], project / "new.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///new.db")
    assert sync(TOY).runs == 1
    assert contents() == before


def test_what_a_full_disk_kept_out_of_the_journal_is_shown_at_the_end(store, record):
    with record() as run:
        run.metric("loss", 2.0, 1)
        watcher = _Follower()
        (note,) = notes.waiting()
        watcher.serve(note)
        run._journal.close()
        run._journal = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 (writes fail with ENOSPC)
        run.metric("loss", 1.0, 2)
        run.tag("device", "cpu")
    watcher.serve(note)
    (child,) = rows()[1].values()
    assert [point.value for point in client().get_metric_history(child.info.run_id, "loss")] == [2.0, 1.0]
    assert child.data.tags["device"] == "cpu"


def test_row_of_a_stage_has_all_parameters_of_the_sections_it_reads(store, record):
    settings = {**PARAMS, "knn.temperature": 0.07, "knn.sizes": [1, 2], "knn.root": None, "evaluate.seeds": 3,
                "linear.epochs": 5, "methods.simclr.momentum": 0.9, "methods.mae.ratio": 0.75}  # fmt: skip
    with record(params=settings, own=("knn", "evaluate", "seed", "methods.simclr")) as run:
        pass
    follow()
    assert rows()[1][run.id].data.params == {
        "seed": "0",
        "knn.k": "5",
        "knn.temperature": "0.07",
        "knn.sizes": "[1, 2]",
        "knn.root": "null",
        "evaluate.seeds": "3",
        "methods.simclr.momentum": "0.9",
    }


def test_sync_changes_nothing_after_the_follower_and_rebuilds_a_lost_store(
    store, project, pipeline, fresh_store, monkeypatch
):
    pipeline()
    pipeline(OTHER, stages=("knn", "report"), top1=0.7)
    follow()
    before = contents()
    assert (sync(TOY).runs, sync(TOY).experiments) == (0, 0)
    assert contents() == before
    # Another file, as this process still holds the first one open.
    shutil.rmtree(project / "mlartifacts")
    shutil.copy(fresh_store[0], project / "new.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///new.db")
    summary = sync(TOY)
    assert (summary.runs, summary.error, summary.skipped) == (5, None, ())
    assert contents() == before
    assert str(sync(TOY)) == "MLflow is up to date"
    assert contents() == before


def test_stage_from_the_cache_is_marked_reused_and_keeps_its_run(store, pipeline):
    first = pipeline()
    second = pipeline(OTHER, stages=("knn", "report"), top1=0.7)
    follow()
    parents, children = rows()
    tags = parents[OTHER].data.tags
    assert tags["stage.pretrain"] == f"reused:{first['pretrain']}"
    assert tags["stage.knn"] == f"executed:{second['knn']}"
    assert children[first["pretrain"]].data.tags["mlflow.parentRunId"] == parents[KEY].info.run_id
    assert parents[KEY].data.metrics["knn.top1"] == 0.9
    assert parents[OTHER].data.metrics["knn.top1"] == 0.7


def test_sync_makes_the_row_when_everything_came_from_the_cache(store, pipeline):
    ids = pipeline()
    summary = sync(TOY, key=OTHER, params={**PARAMS, "views.size": 32})
    assert summary.error is None
    parent = rows()[0][OTHER]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["views.size"] == "32"
    assert parent.data.metrics == {"knn.top1": 0.9, "knn.random_init_top1": 0.5}
    assert parent.data.tags["stage.knn"] == f"reused:{ids['knn']}"


def test_sync_gives_no_row_to_settings_that_have_not_run(store, project, pipeline):
    pipeline()
    now = {"knn": {"settings": {"knn": {"k": 50}}}}
    (project / "dvc.lock").write_text(
        "stages: {features@knn: {deps: [{path: data/resolved/knn.json, md5: former}]}}"
    )
    summary = sync(TOY, key=OTHER, params={**PARAMS, "knn.k": 50}, resolved=now)
    assert summary.behind == ("knn",)
    assert "dvc repro" in str(summary)
    assert OTHER not in rows()[0]


def test_unforced_sync_looks_again_only_after_a_change(store, project, pipeline, fresh_store, monkeypatch):
    pipeline()
    assert sync(TOY, force=False).runs == 3
    with monkeypatch.context() as patch:
        patch.setattr("sslpipe.tracking.sync.Mirror", None)  # any use of MLflow would fail
        assert sync(TOY, force=False).error is None
    pipeline(stages=("knn",))
    assert sync(TOY, force=False).runs == 1
    store.rename(project / "old.db")
    shutil.copy(fresh_store[0], store)
    with monkeypatch.context() as patch:
        patch.setattr("sslpipe.tracking.sync.Mirror", None)
        assert sync(TOY, force=False).error is not None


@pytest.mark.parametrize(("error", "status"), [(SystemExit(143), "KILLED"), (ValueError("bad"), "FAILED")])
def test_stage_that_did_not_finish_marks_its_row_until_it_does(store, record, pipeline, error, status):
    run = record("pretrain")
    with pytest.raises(type(error)), run:
        raise error
    follow()
    parents, children = rows()
    assert parents[KEY].info.status == children[run.id].info.status == status
    pipeline()
    follow()
    assert rows()[0][KEY].info.status == "FINISHED"


def test_stage_killed_outright_is_shown_killed_with_what_it_had(store, record):
    run = record("pretrain").__enter__()
    run.metric("loss", 2.0, 7)
    run._alive.close()  # what the kernel does for a process that is gone
    run._journal.close()
    follow()
    shown = rows()[1][run.id]
    assert shown.info.status == "KILLED"
    assert shown.data.metrics == {"loss": 2.0}
    before = contents()
    assert sync(TOY).runs == 0
    assert contents() == before


def test_run_deleted_in_mlflow_stays_deleted(store, pipeline):
    ids = pipeline()
    follow()
    client().delete_run(rows()[1][ids["knn"]].info.run_id)
    client().delete_run(rows()[0][KEY].info.run_id)
    sync(TOY)
    parents, children = rows()
    assert KEY not in parents
    assert ids["knn"] not in children


def test_run_that_cannot_be_shown_does_not_stop_the_others(store, record):
    with record("knn") as bad:
        bad.metric("x", 1.0)
    journal = bad.folder / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"x"', '""'))  # MLflow refuses a metric without a name
    kept = bad.folder / "record.json"
    kept.write_text(kept.read_text().replace('"x"', '""'))
    with record("linear") as good:
        pass
    follow()
    assert rows()[1][good.id].info.status == "FINISHED"
    assert not recent_outage(store_uri())
    summary = sync(TOY)
    assert summary.error is None
    assert [line.split()[0] for line in summary.skipped] == [bad.id]


def test_deleted_experiment_is_named(store, record):
    number = client().create_experiment("toy")
    client().delete_experiment(number)
    assert "was deleted in MLflow" in sync(TOY).error


def test_second_follower_leaves_the_work_to_the_first(store, pipeline):
    pipeline()

    with journal.try_lock(notes.follower_lock()) as mine:
        assert mine
        follow()
    assert len(list(notes.pending().glob("*.json"))) == 3


def test_follower_process_shows_a_stage(store, record, monkeypatch):
    """The real thing: a process of its own, started by the stage."""
    monkeypatch.undo()
    monkeypatch.chdir(store.parent)
    monkeypatch.setenv("DVC_ROOT", str(store.parent))
    with record("knn") as run:
        run.metric("top1", 0.5)
    (process,) = notes._started
    try:
        deadline = time.monotonic() + 60
        while list(notes.pending().glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert rows()[1][run.id].info.status == "FINISHED", (
            store.parent / ".sslpipe/tracking/follower.log"
        ).read_text()
        assert os.getsid(process.pid) == process.pid
    finally:
        process.terminate()
        process.wait()
        notes._started.clear()


def test_store_that_keeps_its_default_experiment_is_synced_at_once(project, pipeline, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    pipeline()
    summary = sync(Config(experiment="toy", uri=f"file://{project}/mlruns"))
    assert (summary.error, summary.runs, summary.experiments) == (None, 3, 1)


class Server(http.server.BaseHTTPRequestHandler):
    """Answers that a run was ended, and what it was."""

    def do_GET(self):
        info = {"run_id": "r", "experiment_id": "1", "run_name": "knn", "status": "FINISHED"}
        body = json.dumps({"run": {"info": info, "data": {}}, "run_info": info}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *words):
        pass


def test_runs_that_end_on_a_server_print_nothing(capsys):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        mlflow.client(f"http://127.0.0.1:{server.server_port}").set_terminated("r", "FINISHED", 1)
        server.shutdown()
        thread.join()
    assert capsys.readouterr().out == ""


def test_a_new_store_is_made_in_silence(tmp_path, capfd):
    mlflow.client(f"sqlite:///{tmp_path}/new.db").search_experiments()
    assert capfd.readouterr() == ("", "")
