from __future__ import annotations

import contextlib
import hashlib
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sslpipe.core import scratch
from sslpipe.tracking import journal, notes
from sslpipe.tracking import record as module
from sslpipe.tracking.record import Config, restore
from sslpipe.tracking.store import note_outage, store_uri
from sslpipe.tracking.trouble import Trouble


def test_finished_run_leaves_the_same_record_in_workspace_and_scratch(project, record):
    (project / "metrics").mkdir()
    (project / "metrics" / "knn.json").write_text('{"top1": 0.5, "protocol": {"k": 5}}')
    with record(fingerprint="f") as run:
        run.metric("loss", 2.0, 1)
        run.metrics({"loss": 1.5, "odd": math.nan}, 2)
        run.dataset("toy", "d" * 64, "invented")
        run.tag("device", "cpu")
    written = (project / "runs" / "knn.json").read_bytes()
    assert written == (project / ".sslpipe" / "runs" / run.id / "record.json").read_bytes()
    content = json.loads(written)
    assert content["status"] == "finished"
    assert content["id"] == run.id
    assert content["started"] <= content["finished"]
    assert content["headline"] == {"knn.top1": 0.5}
    assert content["dataset"] == {"name": "toy", "digest": "d" * 64, "source": "invented"}
    assert content["tags"] == {"device": "cpu"}
    assert [row[:3] for row in content["metrics"]] == [["loss", 2.0, 1], ["loss", 1.5, 2], ["odd", "nan", 2]]
    assert content["environment"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_metric_recorded_again_at_a_step_replaces_the_former(project, record):
    with record() as run:
        run.metric("loss", 2.0, 1)
        run.metric("loss", 3.0, 1)
    assert [row[:3] for row in json.loads((project / "runs/knn.json").read_text())["metrics"]] == [
        ["loss", 3.0, 1]
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("bad"), "failed"),
        (SystemExit(1), "failed"),
        (SystemExit(143), "killed"),
        (KeyboardInterrupt(), "killed"),
    ],
)
def test_unfinished_run_is_kept_in_scratch_only(project, record, error, status):
    run = record()
    with pytest.raises(type(error)), run:
        raise error
    assert not (project / "runs").exists()
    kept = json.loads((project / ".sslpipe" / "runs" / run.id / "record.json").read_text())
    assert kept["status"] == status
    assert kept["tags"]["error"].startswith(type(error).__name__)


def test_result_is_kept_whole_and_told_as_metrics_and_tags(project, record):
    numbers = {"top1": 0.5, "few_labels": {"100": {"top1": 0.25, "draws": [0.2, 0.3]}}, "lost": math.nan}
    with record() as run:
        run.result(numbers, {"seeds": 3, "k": 5})
    content = json.loads((project / "runs/knn.json").read_text())
    assert content["result"] == {
        "metrics": {**numbers, "lost": "nan"},
        "protocol": {"seeds": 3, "k": 5},
        "skipped": None,
    }
    assert content["headline"] == {"knn.top1": 0.5, "knn.few_labels.100.top1": 0.25}
    assert {name: value for name, value, *_ in content["metrics"]} == {
        "top1": 0.5,
        "few_labels.100.top1": 0.25,
    }
    assert content["tags"] == {"protocol": '{"k": 5, "seeds": 3}'}


def test_skipped_result_has_its_reason_and_no_numbers(project, record):
    (project / "metrics").mkdir()
    (project / "metrics" / "knn.json").write_text('{"knn": {"top1": 0.5}}')  # of an earlier run
    with record() as run:
        run.result({}, {}, skipped="there are no test images")
    content = json.loads((project / "runs/knn.json").read_text())
    assert content["result"] == {"metrics": {}, "protocol": {}, "skipped": "there are no test images"}
    assert content["headline"] == {}
    assert content["metrics"] == []
    assert content["tags"] == {"skipped": "there are no test images"}


def test_exit_with_code_zero_is_finished(project, record):
    with pytest.raises(SystemExit), record():
        raise SystemExit(0)
    assert json.loads((project / "runs/knn.json").read_text())["status"] == "finished"


def test_killed_outright_is_seen_from_the_lock(project):
    code = (
        "import time\nfrom sslpipe.tracking.record import Record, Config\n"
        "run = Record('knn', params={'knn.k': 5}, own=('knn',), key='k', tracking=Config(enabled=False))\n"
        "run.__enter__(); run.metric('loss', 1.0, 7); print(run.id, flush=True); time.sleep(60)"
    )
    root = Path(module.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"], stdout=-1
    ) as child:
        folder = project / ".sslpipe" / "runs" / child.stdout.readline().decode().strip()
        assert journal.alive(folder)
        child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while journal.alive(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not journal.alive(folder)
    ended = journal.ended(folder)
    assert ended["status"] == "killed"
    assert [row[:3] for row in ended["metrics"]] == [["loss", 1.0, 7]]
    assert ended["finished"] == next(
        event["time"] for event in journal.read(folder) if event["event"] == "metrics"
    )


def test_restore_writes_the_newest_finished_run_byte_for_byte(project, record):
    for value in (1.0, 2.0):
        with record("source", fingerprint="same") as run:
            run.metric("number", value)
        time.sleep(0.002)
    newest = (project / "runs/source.json").read_bytes()
    with record("source", fingerprint="other"):
        pass
    with pytest.raises(ValueError, match="bad"), record("source", fingerprint="same"):
        raise ValueError("bad")
    (project / "runs/source.json").unlink()
    assert not restore("source", "unknown")
    assert not (project / "runs/source.json").exists()
    assert restore("source", "same")
    assert (project / "runs/source.json").read_bytes() == newest


def interrupted(run, losses):
    with contextlib.suppress(SystemExit), run:
        for step, loss in enumerate(losses):
            run.metric("loss", loss, step)
        raise SystemExit(143)
    return run


def test_resumed_run_takes_over_the_metrics_up_to_the_checkpoint(project, record):
    first = interrupted(record("pretrain", fingerprint="f"), [5.0, 4.0, 3.0, 2.0, 1.0])
    with record("pretrain", fingerprint="f") as second:
        second.resumed(2)
        second.metric("loss", 2.0, 3)
    content = json.loads((project / "runs/pretrain.json").read_text())
    assert [(value, step) for _, value, step, _ in content["metrics"]] == [
        (5.0, 0),
        (4.0, 1),
        (3.0, 2),
        (2.0, 3),
    ]
    assert first.id in content["tags"]["resumed"]
    replayed = [event["step"] for event in journal.read(second.folder) if event["event"] == "metrics"]
    assert replayed == [0, 1, 2, 3]


def test_resumed_ignores_runs_of_another_or_no_fingerprint(project, record):
    for mark in ("other", None):
        with record("pretrain", fingerprint=mark) as run:
            run.metric("loss", 1.0, 0)
    for mark in ("f", None):
        with record("pretrain", fingerprint=mark) as run:
            run.resumed(5)
        assert json.loads((project / "runs/pretrain.json").read_text())["metrics"] == []


def test_artifacts_are_copied_with_their_digest_unless_large(project, record, monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", 10)
    (project / "plots" / "knn" / "deep").mkdir(parents=True)
    (project / "plots" / "knn" / "deep" / "a.png").write_bytes(b"small")
    (project / "plots" / "knn" / "b.bin").write_bytes(b"far too large")
    with record() as run:
        run.artifact("plots/knn")
    kept = project / ".sslpipe" / "runs" / run.id / "artifacts"
    assert [path.read_bytes() for path in kept.rglob("*") if path.is_file()] == [b"small"]
    small, large = sorted(
        json.loads((project / "runs/knn.json").read_text())["artifacts"], key=lambda entry: entry["bytes"]
    )
    assert small == {
        "path": "plots/knn/deep/a.png",
        "sha256": hashlib.sha256(b"small").hexdigest(),
        "bytes": 5,
        "kept": True,
    }
    assert large["sha256"] == hashlib.sha256(b"far too large").hexdigest()
    assert not large["kept"]


def test_full_disk_under_the_journal_warns_once_and_loses_nothing(project, record, capsys):
    with record() as run:
        run._journal.close()
        run._journal = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 (writes fail with ENOSPC)
        for step in range(3):
            run.metric("loss", 1.0, step)
    assert capsys.readouterr().err.count("disk is full") == 1
    assert len(json.loads((project / "runs/knn.json").read_text())["metrics"]) == 3


def test_follower_is_started_unless_one_works_or_the_store_is_out(project, record, followers):
    with record():
        assert len(followers) == 1
        with journal.try_lock(notes.follower_lock()) as mine:
            assert mine
            with record("linear"):
                assert len(followers) == 1
    note_outage(store_uri(), Trouble("connection refused", passes=True))
    with record("finetune"):
        assert len(followers) == 1
    assert len(list(notes.pending().glob("*.json"))) == 3


def test_outage_is_said_once_for_all_stages_of_an_experiment(project, record, capsys):
    note_outage(store_uri(), Trouble("connection refused", passes=True))
    for stage in ("knn", "linear"):
        with record(stage):
            pass
    warning = capsys.readouterr().err
    assert warning.count("warning:") == 1
    assert "connection refused" in warning
    assert "sslpipe sync" in warning
    with record("knn", key="b" * 16):
        pass
    assert capsys.readouterr().err.count("warning:") == 1


def test_switched_off_writes_files_and_tells_nobody(project, record, followers, capsys):
    note_outage(store_uri(), Trouble("connection refused", passes=True))
    with record(tracking=Config(enabled=False)):
        pass
    assert (project / "runs/knn.json").is_file()
    assert not followers
    assert not list(notes.pending().glob("*.json"))
    assert capsys.readouterr().err == ""


def test_recording_imports_neither_mlflow_nor_torch():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import sslpipe.tracking.record, sslpipe.tracking.sync; "
        "print([name for name in ('mlflow', 'torch', 'numpy') if name in sys.modules])"
    )
    root = Path(module.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_report_remembers_the_whole_workspace(project, record):
    with record("knn") as knn:
        pass
    with record("report", key="b" * 16) as report:
        pass
    remembered = json.loads((scratch.folder("experiments") / f"{'b' * 16}.json").read_text())
    assert remembered["stages"] == {"knn": knn.id, "report": report.id}
    assert not (scratch.folder("experiments") / f"{'a' * 16}.json").exists()
