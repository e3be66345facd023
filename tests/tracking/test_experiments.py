from __future__ import annotations

import pytest
import yaml

from sslpipe.tracking import experiments

PARAMS = {
    "seed": 0,
    "pretrain.method": "byol",
    "methods.byol.momentum": 0.99,
    "methods.mae.ratio": 0.75,
    "tracking.uri": None,
}


def test_key_ignores_tracking_and_other_methods_only():
    key = experiments.experiment_key(PARAMS, "data", "code")
    for name in ("tracking.uri", "methods.mae.ratio"):
        assert experiments.experiment_key({**PARAMS, name: "changed"}, "data", "code") == key
    for name in ("seed", "pretrain.method", "methods.byol.momentum"):
        assert experiments.experiment_key({**PARAMS, name: "changed"}, "data", "code") != key
    assert experiments.experiment_key(PARAMS, "other", "code") != key
    assert experiments.experiment_key(PARAMS, "data", "other") != key
    assert experiments.experiment_key(dict(reversed(PARAMS.items())), "data", "code") == key


@pytest.fixture
def code(tmp_path):
    methods = [f"sslpipe/methods/{name}.py" for name in ("base", "byol", "mae")]
    recipes = [f"sslpipe/recipes/{name}.yaml" for name in ("byol", "mae")]
    others = ("sslpipe/a.py", "sslpipe/tracking/record.py", "stages/knn.py", "stages/report.py")
    for name in (*methods, *recipes, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "matters"),
    [
        ("sslpipe/a.py", True),
        ("stages/knn.py", True),
        ("sslpipe/methods/base/method.py", True),
        ("sslpipe/methods/byol.py", True),
        ("sslpipe/methods/mae.py", False),
        ("sslpipe/methods/new.py", False),
        ("sslpipe/recipes/byol.yaml", True),
        ("sslpipe/recipes/mae.yaml", False),
        ("sslpipe/new.py", True),
        ("sslpipe/tracking/record.py", False),
        ("stages/report.py", False),
        ("README.md", False),
    ],
)
def test_code_digest_covers_what_can_change_a_result(code, name, matters):
    before = experiments.code_digest(code, "byol")
    (code / name).write_text("x = 2\n")
    assert (experiments.code_digest(code, "byol") != before) is matters


def test_title_is_readable_and_copes_with_missing_names():
    params = {"pretrain.method": "mae", "pretrain.backbone": "small_vit", "data.source": "mnist5k"}
    assert experiments.title(params, "0123456789abcdef") == "mae · small_vit · mnist5k · 012345"
    assert experiments.title({}, "0123456789abcdef") == "012345"


@pytest.fixture
def locked(tmp_path):
    """A workspace as `dvc repro` leaves it."""
    lock = {
        "embed": {"params": {"params.yaml": {"seed": 0}}, "outs": [{"path": "data/features", "md5": "new"}]},
        "linear": {
            "deps": [{"path": "data/features", "md5": "new"}, {"path": "x.py", "md5": "1"}],
            "params": {"params.yaml": {"linear.rates": [0.1, 1.0], "linear.enabled": True}},
        },
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    (tmp_path / "params.yaml").write_text(
        "seed: 0\nlinear: {rates: [0.1, 1.0], enabled: true}\nknn: {k: 5}\n"
    )
    return tmp_path


def test_workspace_is_not_behind_after_a_whole_repro(locked, tmp_path_factory):
    assert experiments.behind(locked) == []
    assert experiments.behind(tmp_path_factory.mktemp("never_ran")) == []


@pytest.mark.parametrize(
    ("old", "new", "stages"),
    [
        ("rates: [0.1, 1.0]", "rates: [0.1]", ["linear"]),
        ("seed: 0", "seed: 1", ["embed"]),
        ("k: 5", "k: 6", []),
    ],
)
def test_changed_setting_leaves_the_stages_that_read_it_behind(locked, old, new, stages):
    text = (locked / "params.yaml").read_text()
    assert old in text
    (locked / "params.yaml").write_text(text.replace(old, new))
    assert experiments.behind(locked) == stages


def test_leftover_of_an_earlier_experiment_is_behind(locked):
    lock = yaml.safe_load((locked / "dvc.lock").read_text())
    lock["stages"]["linear"]["deps"][0]["md5"] = "old"
    (locked / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert experiments.behind(locked) == ["linear"]
