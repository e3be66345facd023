"""How settings change with the scale of a run."""

from __future__ import annotations

import pytest

from sslpipe.methods.base.scale import (
    IMAGENET,
    Scale,
    first_epochs,
    momentum,
    queue,
    root_of_images,
    share_of_epochs,
)

BYOL = Scale(batch=4096, epochs=300)
MOCO = Scale(batch=256, epochs=200)


def half_life(m: float, batch: int) -> float:
    """In images: steps until half of what the network was is left, counted one by one."""
    left, steps = 1.0, 0
    while left > 0.5:
        left, steps = left * m, steps + 1
    return steps * batch


@pytest.mark.parametrize("batch", [256, 1024, 16384])
def test_with_the_batch_alone_the_half_life_stays_the_same_in_images(batch: int) -> None:
    here = Scale(batch=batch, epochs=300)
    m, _ = momentum(0.996, BYOL, here)
    assert half_life(m, batch) == pytest.approx(
        half_life(0.996, 4096), rel=0.04
    )  # rounded, and counted in steps


@pytest.mark.parametrize("here", [Scale(batch=128, epochs=90, images=40_000), Scale(batch=4096, epochs=1000)])
def test_the_half_life_is_the_same_share_of_every_run(here: Scale) -> None:
    m, why = momentum(0.996, BYOL, here)
    assert half_life(m, here.batch) / here.seen == pytest.approx(half_life(0.996, 4096) / BYOL.seen, rel=0.04)
    assert "93600 steps" in why


def test_a_paper_at_its_own_scale_keeps_every_value() -> None:
    for value in (0.0, 0.9, 0.99, 0.99634, 0.9996, 1.0):
        assert momentum(value, BYOL, BYOL)[0] == value
    assert queue(65536, MOCO, MOCO)[0] == 65536
    assert first_epochs(313, BYOL, BYOL)[0] == 313
    assert share_of_epochs(15, MOCO, MOCO)[0] == 15
    assert root_of_images(3000, BYOL, BYOL)[0] == 3000


@pytest.mark.parametrize(
    ("batch", "images", "length"),
    [
        (128, 4000, 896),
        (4096, IMAGENET, 65536),
        (300, IMAGENET, 65400),
        (64, 100, 64),
        (64, 256, 64),
        (64, 512, 128),
    ],
)
def test_queues_are_whole_batches_of_a_quarter_of_the_images(batch: int, images: int, length: int) -> None:
    assert queue(65536, MOCO, Scale(batch=batch, epochs=10, images=images))[0] == length
    assert queue(0, MOCO, Scale(batch=batch, epochs=10, images=images))[0] == 0


def test_what_counts_in_iterations_counts_as_many_epochs() -> None:
    swav = Scale(batch=256, epochs=200)
    assert first_epochs(5005, swav, Scale(batch=4096, epochs=800))[0] == 313  # both are the official scripts'
    assert first_epochs(313, Scale(batch=4096, epochs=800), Scale(batch=128, epochs=36, images=4000))[0] == 32


def test_an_epoch_moves_with_the_length_of_shorter_runs() -> None:
    assert share_of_epochs(15, MOCO, Scale(batch=256, epochs=36))[0] == 3
    assert share_of_epochs(15, MOCO, Scale(batch=256, epochs=800))[0] == 15


def test_counts_fall_as_the_root_of_the_images_and_never_rise() -> None:
    assert root_of_images(3000, MOCO, Scale(batch=2, epochs=1, images=IMAGENET // 4))[0] == pytest.approx(
        1500, abs=1
    )
    assert root_of_images(3000, MOCO, Scale(batch=2, epochs=1, images=10 * IMAGENET))[0] == 3000
    assert root_of_images(3000, MOCO, Scale(batch=2, epochs=1, images=2))[0] >= 2


def test_steps_leave_out_what_fills_no_batch() -> None:
    assert Scale(batch=128, epochs=36, images=4000).steps == 36 * 31
