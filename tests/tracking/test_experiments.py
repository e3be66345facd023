from __future__ import annotations

import pytest
import yaml

from sslpipe.core import scratch
from sslpipe.tracking import experiments

RESOLVED = {
    "embed": {"settings": {"embed.batch_size": 64}, "code": {"sslpipe/evals/base": "1"}},
    "linear": {"settings": {"linear": {"lrs": [0.1, 1.0]}}, "code": {"sslpipe/evals/linear": "2"}},
}


def test_key_is_of_data_settings_and_code():
    key = experiments.experiment_key(RESOLVED)
    assert key == experiments.experiment_key(dict(reversed(RESOLVED.items())))
    assert len(key) == 16
    other_settings = {**RESOLVED["linear"], "settings": {"linear": {"lrs": [0.1]}}}
    other_code = {**RESOLVED["linear"], "code": {"sslpipe/evals/linear": "3"}}
    keys = [
        key,
        experiments.experiment_key({**RESOLVED, "linear": other_settings}),
        experiments.experiment_key({**RESOLVED, "linear": other_code}),
    ]
    assert len(set(keys)) == len(keys)


def test_parameters_of_a_row_are_those_that_are_read():
    params = {
        "seed": 0,
        "pretrain.method": "byol",
        "methods.byol.momentum": 0.99,
        "methods.mae.ratio": 0.75,
        "tracking.uri": None,
    }
    assert set(experiments.params_read(params)) == {"seed", "pretrain.method", "methods.byol.momentum"}


def test_title_is_readable_and_copes_with_missing_names():
    params = {"pretrain.method": "mae", "pretrain.backbone": "small_vit", "data.source": "mnist5k"}
    assert experiments.title(params, "0123456789abcdef") == "mae · small_vit · mnist5k · 012345"
    assert experiments.title({}, "0123456789abcdef") == "012345"


@pytest.fixture
def locked(tmp_path):
    """A workspace as `dvc repro` leaves it."""
    read = {
        name: [{"path": f"data/resolved/{name}.json", "md5": scratch.md5_of_json(each)}]
        for name, each in RESOLVED.items()
    }
    lock = {
        "embed": {"deps": read["embed"], "outs": [{"path": "data/features", "md5": "new"}]},
        "features@linear": {"deps": [*read["linear"], {"path": "data/features", "md5": "new"}]},
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    return tmp_path


def test_workspace_is_not_behind_after_a_whole_repro(locked, tmp_path_factory):
    assert experiments.behind(locked, RESOLVED) == []
    assert experiments.behind(tmp_path_factory.mktemp("never_ran"), RESOLVED) == []


@pytest.mark.parametrize(
    ("stage", "kind", "value", "behind"),
    [
        ("linear", "settings", {"linear": {"lrs": [0.1]}}, ["linear"]),
        ("embed", "code", {"sslpipe/evals/base": "changed"}, ["embed"]),
    ],
)
def test_change_leaves_the_stages_that_read_it_behind(locked, stage, kind, value, behind):
    now = {**RESOLVED, stage: {**RESOLVED[stage], kind: value}}
    assert experiments.behind(locked, now) == behind


def test_leftover_of_an_earlier_experiment_is_behind(locked):
    lock = yaml.safe_load((locked / "dvc.lock").read_text())
    lock["stages"]["features@linear"]["deps"][1]["md5"] = "old"
    (locked / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert experiments.behind(locked, RESOLVED) == ["linear"]
