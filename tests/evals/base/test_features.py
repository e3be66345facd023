from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import ToyReader
from support import encoder as small

from sslpipe.console.errors import UserError
from sslpipe.evals.base.config import EmbedConfig as Config
from sslpipe.evals.base.embed import embed, fitting, random_twin
from sslpipe.evals.base.features import Features
from sslpipe.networks.protocol import Backbone
from sslpipe.views.preprocess import Preprocess


def encoder(name: str = "small_resnet", image_size: int = 16, **options: int) -> Backbone:
    found = small(name, image_size, **options)
    found.preprocess = Preprocess(size=image_size, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
    return found


def test_features_are_the_encoders_in_order_and_raw_pixels_are_pixels() -> None:
    reader = ToyReader(10)
    network = encoder(stages=3)
    features = embed(network, reader, Config(batch_size=4), seed=1)
    batch = reader.gather(range(10))
    with torch.inference_mode():
        torch.testing.assert_close(features.features, network(network.preprocess.view(batch)))
    expected = batch.pixels.permute(0, 3, 1, 2).flatten(1) / 255
    torch.testing.assert_close(features.raw_pixel_features, expected, atol=1e-5, rtol=0)
    assert features.index.tolist() == list(range(10))
    assert torch.equal(features.label, reader.labels)
    assert not torch.allclose(features.random_init_features, features.features)


def test_features_of_several_blocks_stand_side_by_side() -> None:
    network = encoder("small_vit", depth=3)
    features = embed(network, ToyReader(6), Config(last_blocks=2), seed=1)
    assert features.features.shape == features.random_init_features.shape == (6, 32)


def test_features_may_be_of_the_class_token() -> None:
    network = encoder("small_vit", depth=2)
    reader = ToyReader(6)
    features = embed(network, reader, Config(pool="cls"), seed=1).features
    with torch.inference_mode():
        tokens = network.tokens(network.preprocess.view(reader.gather(range(6))), prefix=True)
    torch.testing.assert_close(features, tokens[:, 0])
    assert not torch.allclose(features, embed(network, reader, Config(), seed=1).features)


@pytest.mark.parametrize(
    ("pool", "paper", "expected"),
    [
        ("encoder", "cls", "encoder"),
        ("paper", "cls", "cls"),
        ("paper", "encoder", "encoder"),
        ("cls", "encoder", "cls"),
    ],
)
def test_which_vector_is_the_settings_or_the_papers(pool: str, paper: str, expected: str) -> None:
    assert fitting(Config.model_validate({"pool": pool}), encoder("small_vit"), paper).pool == expected


def test_a_class_token_that_is_not_there_is_said() -> None:
    for network in (encoder(), encoder("small_vit", class_token=False)):
        with pytest.raises(UserError, match=r"embed\.pool: small_\w+ has no class token"):
            fitting(Config(pool="cls"), network)


def test_random_weights_see_the_same_view() -> None:
    network = encoder()
    assert random_twin(network, 0).preprocess == network.preprocess


def test_rows_without_a_label_are_left_out() -> None:
    rows = torch.arange(8.0).view(4, 2)
    features = Features(rows, rows + 1, rows + 2, torch.tensor([0, -1, 1, -1]), torch.arange(4))
    kept = features.labelled()
    assert kept.label.tolist() == [0, 1]
    assert kept.index.tolist() == [0, 2]
    assert torch.equal(kept.raw_pixel_features, rows[[0, 2]] + 2)
    assert kept.labelled() is kept


def test_frozen_means_frozen_batch_norm_statistics_do_not_move() -> None:
    network = encoder(stages=3).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    embed(network, ToyReader(8), Config(), seed=1)
    assert all(torch.equal(before[name], value) for name, value in network.named_buffers())


def test_large_images_are_compared_as_small_raw_pixels() -> None:
    network = encoder(image_size=48)
    features = embed(network, ToyReader(4, resolution=48), Config(), seed=1)
    assert features.raw_pixel_features.shape == (4, 3 * 32 * 32)


def test_files_round_trip_and_damage_is_said(tmp_path: Path) -> None:
    features = Features(
        torch.randn(3, 2), torch.randn(3, 2), torch.randn(3, 5), torch.arange(3), torch.arange(3)
    )
    path = tmp_path / "train.safetensors"
    features.save(path)
    again = Features.load(path)
    assert all(torch.equal(a, b) for a, b in zip(vars(features).values(), vars(again).values(), strict=True))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="dvc repro embed"):
        Features.load(path)
