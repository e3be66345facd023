from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from support import preprocess

from sslpipe.console.errors import UserError
from sslpipe.evals.finetune.mixing import Config, Mixing

LABELS = torch.tensor([0, 1, 2, 0])


def images(count: int = 4) -> torch.Tensor:
    """Each of one level."""
    return torch.arange(1.0, count + 1)[:, None, None, None].expand(count, 3, 16, 16).clone()


def test_targets_are_mixed_by_the_same_share_as_images() -> None:
    mix = Mixing(Config(mixup=0.8), classes=3, smoothing=0.0, seed=0, preprocess=preprocess())
    x, target = mix(images(), LABELS)
    # timm mixes with the batch turned round: image 0 (level 1, class 0) with image 3 (level 4, class 0), 1 with 2.
    share = float(target[1, 1])
    assert 0 < share < 1
    torch.testing.assert_close(target[1], torch.tensor([0.0, share, 1 - share]))
    torch.testing.assert_close(x[1], torch.full((3, 16, 16), 2 * share + 3 * (1 - share)))
    torch.testing.assert_close(target.sum(1), torch.ones(4))


def test_cutmix_pastes_a_box_and_counts_its_area() -> None:
    mix = Mixing(Config(cutmix=1.0), classes=3, smoothing=0.0, seed=1, preprocess=preprocess())
    shares = []
    for _ in range(6):
        x, target = mix(images(), LABELS)
        assert set(x[1].unique().tolist()) <= {2.0, 3.0}
        kept = float((x[1, 0] == 2).double().mean())
        assert float(target[1, 1]) == pytest.approx(kept)
        shares.append(kept)
    assert len(set(shares)) > 3


def test_erasing_changes_a_part_and_keeps_the_class() -> None:
    mix = Mixing(Config(erasing=1.0), classes=3, smoothing=0.1, seed=0, preprocess=preprocess())
    x, target = mix(images(), LABELS)
    share = (x != images()).any(1).double().mean((1, 2))
    assert ((share > 0) & (share < 0.5)).all()
    expected = torch.nn.functional.one_hot(LABELS, 3) * 0.9 + 0.1 / 3
    torch.testing.assert_close(target, expected)


def test_the_same_seed_draws_the_same_and_leaves_the_process_as_it_was() -> None:
    settings = Config(mixup=0.8, cutmix=1.0, erasing=0.5)
    states = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()  # type: ignore[union-attr]
    runs = []
    for _ in range(2):
        mix = Mixing(settings, 3, 0.1, seed=5, preprocess=preprocess())
        batches = []
        for _ in range(3):
            batches.append(mix(images(), LABELS))
            np.random.rand()  # what others draw in between
        runs.append(batches)
        np.random.set_state(("MT19937", states[0], 624))
    for (x, t), (y, u) in zip(*runs, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(t, u)
    assert not torch.equal(runs[0][0][0], runs[0][1][0])
    assert random.getstate() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_an_odd_batch_is_not_mixed() -> None:
    x, target = Mixing(Config(mixup=0.8), 3, 0.0, seed=0, preprocess=preprocess())(images(3), LABELS[:3])
    assert torch.equal(x, images(3))
    assert torch.equal(target, torch.eye(3))


def test_rand_augment_is_timms_on_8_bits_with_the_hints_of_its_own_training() -> None:
    from timm.data.transforms_factory import transforms_imagenet_train
    from torchvision.transforms.functional import pil_to_tensor, to_pil_image

    words, own = "rand-m9-mstd0.5-inc1", preprocess(16, interpolation="bicubic")
    bytes_ = torch.randint(
        0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    found, _ = Mixing(Config(rand_augment=words), 3, 0.0, seed=4, preprocess=own)(
        own.normalised(bytes_ / 255), torch.zeros(6, dtype=torch.int64)
    )
    chain = transforms_imagenet_train(
        16, auto_augment=words, interpolation="bicubic", mean=own.mean, std=own.std
    )
    theirs = next(each for each in chain.transforms if type(each).__name__ == "RandAugment")
    before = np.random.get_state(), random.getstate()
    np.random.seed(4)
    random.seed(4)
    expected = torch.stack([pil_to_tensor(theirs(to_pil_image(image))) for image in bytes_])
    np.random.set_state(before[0])
    random.setstate(before[1])
    torch.testing.assert_close(own.plain(found) * 255, expected.float(), atol=1e-3, rtol=0)
    assert not torch.equal(expected, bytes_)


def test_words_that_timm_does_not_know_are_said() -> None:
    with pytest.raises(UserError, match="does not understand 'rand-z3'"):
        Mixing(Config(rand_augment="rand-z3"), 3, 0.0, seed=0, preprocess=preprocess())
    with pytest.raises(ValueError, match="should match pattern"):
        Config(rand_augment="auto")
