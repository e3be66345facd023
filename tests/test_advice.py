"""`sslpipe recipe`: for every method, at every scale."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sslpipe import methods
from sslpipe.advice import Advice, advise, render, warmup_epochs
from sslpipe.cli import main
from sslpipe.console.errors import UserError
from sslpipe.methods import jigsaw
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.scale import IMAGENET, Scale
from sslpipe.settings import Settings
from sslpipe.training.core.schedules import lr_factor

SCALES = [
    Scale(batch=2, epochs=1, images=2),
    Scale(batch=64, epochs=3, images=100),
    Scale(batch=128, epochs=36, images=4000),
    Scale(batch=1000, epochs=2000, images=3_000_000),
]
DIGITS = Scale(batch=128, epochs=36, images=4000)


@pytest.fixture(autouse=True)
def plain_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puzzles of any permutations: to choose distant ones takes seconds."""

    def any_permutations(count: int, seed: int, tiles: int = 9) -> np.ndarray:
        return np.tile(np.arange(tiles), (count, 1))

    monkeypatch.setattr(jigsaw, "distant_permutations", any_permutations)


@pytest.fixture(params=methods.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def backbone_of(name: str, scale: Scale) -> str:
    """A backbone of a kind that the scale is for."""
    own = methods.find(name).default_backbone
    return own if {"small_resnet": "resnet", "small_vit": "vit"}[own] in scale.kinds else "small_vit"


def settings(text: str) -> Settings:
    found = Settings(yaml.safe_load(text))
    return found.validate(("pretrain", "methods"))


def said(advice: Advice) -> str:
    return " ".join(advice.warnings)


def test_every_method_says_which_runs_its_settings_are_of(name: str) -> None:
    scales = methods.find(name).scales
    assert scales[0].settings == {}
    for scale in scales:
        assert scale.source
        methods.configure(name, scale.settings)
    assert set(methods.find(name).rules) <= set(methods.find(name).Config.model_fields)


def test_at_the_papers_own_scale_the_papers_own_values_come_out(name: str) -> None:
    for scale in methods.find(name).scales:
        backbone = backbone_of(name, scale)
        text = render(advise(name, scale, backbone))
        assert settings(text).method == methods.configure(name, scale.settings), scale
    first = methods.find(name).scales[0]
    advice = advise(name, first, backbone_of(name, first))
    assert advice.settings == {}
    assert advice.warnings == []


@pytest.mark.parametrize("here", SCALES, ids=lambda scale: f"{scale.batch}-{scale.images}")
def test_what_is_printed_is_valid_at_any_scale(name: str, here: Scale) -> None:
    advice = advise(name, here)
    found = settings(render(advice))
    assert (found.pretrain.method, found.pretrain.batch_size) == (name, here.batch)
    assert found.pretrain.defaults == "paper"  # whose values are translated
    assert found.method == methods.configure(name, advice.values())
    for _, why in advice.settings.values():
        assert why
    queue = getattr(found.method, "queue", 0)
    assert queue % here.batch == 0
    assert queue <= max(here.images // 4, here.batch)
    assert 0 <= getattr(found.method, "momentum", 0) <= 1
    if hasattr(found.method, "prototypes"):
        assert 2 <= found.method.prototypes <= here.batch + queue


@pytest.mark.parametrize("epochs", [1, 3, 36, 99, 100, 1000])
@pytest.mark.parametrize("warmup", [0.0, 10.0, 40.0])
def test_the_warm_up_is_one_that_training_does_not_cut(warmup: float, epochs: int) -> None:
    paper, here = Scale(batch=1, epochs=100), Scale(batch=1, epochs=epochs)
    value = warmup_epochs(warmup, paper, here)
    assert value <= max(warmup, 0)
    if epochs < 100:
        schedule = OptimizerConfig(warmup_epochs=value)
        assert value == pytest.approx(min(warmup * epochs / 100, epochs / 5), rel=0.01)
        assert value == 0 or lr_factor(schedule, value * 0.5, epochs) == pytest.approx(0.5, rel=0.01)
    else:
        assert value == warmup


def test_byol_at_the_scale_of_the_digits_by_hand() -> None:
    advice = advise("byol", DIGITS)
    assert advice.paper.epochs == 40  # by images seen, the shortest of the presets
    values = {key: value for key, (value, _) in advice.settings.items()}
    m = 0.97 ** (40 * IMAGENET / 4096 / (36 * 4000 / 128))
    assert values == {
        "momentum": pytest.approx(m, abs=5e-3),
        "optimizer.lr": 0.45,
        "optimizer.warmup_epochs": 7.2,  # a quarter of the paper's run, a fifth at most
    }
    assert "peak 0.225" in advice.settings["optimizer.lr"][1]


@pytest.mark.parametrize(
    ("batch", "epochs", "images", "m"),
    [
        (256, 100, IMAGENET, 0.999),
        (1024, 200, IMAGENET, 0.999**4),
        (4096, 200, IMAGENET, 0.999**16),
        (
            128,
            36,
            4000,
            0.5 ** (10 / 1116),
        ),  # a tenth of the run: the keys of the paper's m would not have moved
        (128, 9, 4000, 0.99),
    ],
)
def test_mocos_momentum_is_slow_but_not_too_slow_for_the_run(
    batch: int, epochs: int, images: int, m: float
) -> None:
    values = advise("moco", Scale(batch=batch, epochs=epochs, images=images)).values()
    assert values.get("momentum", 0.999) == pytest.approx(m, abs=2e-4)


def test_the_nearest_run_is_that_of_the_batch_first() -> None:
    assert advise("swav", DIGITS).values()["queue"] == 896
    assert "queue" not in advise("swav", Scale(batch=2048, epochs=100)).values()
    assert advise("simclr", DIGITS).values()["optimizer"]["rule"] == "sqrt"
    assert advise("mocov3", Scale(batch=4096, epochs=900)).values()["momentum"] == pytest.approx(
        0.996, abs=5e-4
    )


def test_swav_has_no_more_prototypes_than_images_to_share_out() -> None:
    advice = advise("swav", Scale(batch=1100, epochs=100))  # too large a batch for the paper's queue
    assert advice.values()["prototypes"] == 1100
    assert "shares out" not in said(advice)


def test_settings_that_depend_on_the_backbone_are_its_own() -> None:
    here = Scale(batch=4096, epochs=100)
    vit, resnet = (advise("mocov3", here, name) for name in ("small_vit", "small_resnet"))
    assert vit.values()["optimizer"]["warmup_epochs"] == pytest.approx(40 / 3, rel=0.01)
    assert resnet.values() == {}
    assert any("0.00015" in words for words in vit.kept)


@pytest.mark.parametrize(
    ("name", "here", "words"),
    [
        ("simclr", DIGITS, "an anchor sees 254 negatives, in the paper 8 190"),
        ("mocov3", DIGITS, "an anchor sees 127 negatives, in the paper 4 095"),
        ("moco", DIGITS, "an anchor sees 896 negatives, in the paper 65 536: only more images"),
        ("simclr", DIGITS, "1 116 steps in all, where the paper's run has 500 400"),
        ("mae", Scale(batch=128, epochs=10, images=4000), "310 steps in all are too few"),
        ("mae", DIGITS, "36 epochs, the paper's run has 800"),
        ("byol", DIGITS, "LARS is made for batches of thousands, this one is 128"),
        ("mae", DIGITS, "warm-up of 40 epochs is more than a fifth of 36"),
        ("rotation", DIGITS, "4 000 images are few"),
        ("beit", DIGITS, "by the square root of the batch, as is usual for Adam, it would be 0.00038"),
        ("rotation", Scale(batch=32, epochs=50), "by the batch, as is usual for SGD, it would be 0.0017"),
        ("swav", Scale(batch=100, epochs=9, images=100), "the queue of 100 is 1 times the images"),
        ("moco", Scale(batch=64, epochs=9, images=100), "queue of 64 keys is more than a quarter"),
    ],
)
def test_what_may_go_wrong_is_said(name: str, here: Scale, words: str) -> None:
    assert words in said(advise(name, here))


def test_what_cannot_go_wrong_is_not() -> None:
    advice = advise("simclr", Scale(batch=2048, epochs=200))
    assert advice.warnings == []
    for words in ("negatives", "LARS", "warm-up", "steps", "queue", "lr"):
        assert words not in said(advise("mae", Scale(batch=2048, epochs=800)))


@pytest.mark.parametrize(
    ("name", "here", "words"),
    [
        ("simsalabim", DIGITS, "unknown method"),
        ("byol", Scale(batch=1, epochs=1, images=9), "--batch 2"),
        ("byol", Scale(batch=2, epochs=0, images=9), "--epochs 1"),
        ("byol", Scale(batch=10, epochs=1, images=9), "do not fill a batch"),
    ],
)
def test_what_cannot_be_is_refused(name: str, here: Scale, words: str) -> None:
    with pytest.raises(UserError, match=words):
        advise(name, here)


def test_a_backbone_that_the_method_cannot_train_is_refused() -> None:
    with pytest.raises(UserError, match="cannot train `small_resnet`"):
        advise("mae", DIGITS, "small_resnet")


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "moco", "--batch", "128", "--epochs", "36", "--images", "4000"]) == 0
    text = capsys.readouterr().out
    assert settings(text).method_config("moco").model_dump()["queue"] == 896
    assert "31 steps an epoch, 1 116 in all" in text
    assert re.search(r"momentum: 0\.9938 +# 0\.999, but a half-life of a tenth of the run at most", text)
    assert max(len(line) for line in text.splitlines() if line.startswith("#")) <= 100


def test_its_lines_fit_into_params_yaml(tmp_path: Path) -> None:
    """Pasted under the project's own settings of another method."""
    params: Any = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
    advised = yaml.safe_load(render(advise("swav", DIGITS)))
    params["pretrain"] |= advised["pretrain"]
    params["methods"] |= advised["methods"]
    assert Settings(params).validate().method_config("swav").model_dump()["prototypes"] == 168
