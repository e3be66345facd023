from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import inputs, manifest

from sslpipe.evals.base.features import Features
from sslpipe.evals.base.trust import at_edge, digests, without_duplicates
from sslpipe.evals.linear import Config


def images(index: list[int]) -> Features:
    none = torch.zeros(len(index), 1)
    return Features(none, none, none, torch.tensor([0, 1, 0, 1, 0])[: len(index)], torch.tensor(index))


def test_scores_without_the_images_that_repeat_one_of_train() -> None:
    # Place 3 has no label, so five of six images are tested; places 1 and 5 are repeats, as is 2 in train.
    found = manifest(("test", 1), ("test", 5), ("train", 2))
    predicted = {"": torch.tensor([0, 0, 0, 0, 0]), "random_init_": torch.tensor([1, 1, 1, 1, 0])}
    assert without_duplicates(found, images([0, 1, 2, 4, 5]), predicted) == {
        "without_duplicates": {
            "top1": pytest.approx(2 / 3),  # places 0, 2 and 4 have the classes 0, 0 and 1
            "random_init_top1": pytest.approx(1 / 3),
            "test_images": 3,
        }
    }


def test_a_rate_at_the_edge_of_those_tried_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    lrs = (0.1, 1.0, 3.0)
    assert at_edge("linear.lrs", 1.0, lrs) == at_edge("linear.lrs", 0.3, (0.3,)) == {}
    assert capsys.readouterr().out == ""
    assert at_edge("linear.lrs", 3.0, lrs) == {
        "lr_at_edge": "3 was chosen, the highest of linear.lrs: add further ones"
    }
    assert capsys.readouterr().out == "linear: 3 was chosen, the highest of linear.lrs: add further ones\n"
    assert "the lowest of" in at_edge("online.lrs", 0.1, lrs)["lr_at_edge"]


@pytest.mark.parametrize("pairs", [(), (("train", 1),), tuple(("test", n) for n in range(6))])
def test_nothing_is_said_where_none_or_all_are_repeats(pairs: Any) -> None:
    found = without_duplicates(manifest(*pairs), images([0, 1, 2]), {"": torch.tensor([0, 0, 0])})
    assert found == {}


def test_digests_change_with_what_was_measured_and_not_with_the_device() -> None:
    first = digests("data", "encoder", Config(), 1)
    assert first["data"] == "data"
    assert first["encoder"] == "encoder"
    assert digests("data", "encoder", Config(device="cpu", enabled=False), 1) == first
    for other in (digests("data", "encoder", Config(epochs=3), 1), digests("data", "encoder", Config(), 2)):
        assert other["settings"] != first["settings"]
        assert (other["data"], other["encoder"]) == ("data", "encoder")


def test_the_encoders_digest_is_read_from_its_header(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "encoder.json").write_text(json.dumps({"weights_sha256": "w" * 64}))
    given = inputs()
    given.root = tmp_path
    assert given.encoder_digest == "w" * 64
