from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from sslpipe.console.errors import UserError
from sslpipe.data import Batch, Loader


class Numbers:
    """A reader whose image n is filled with n; one of them may be damaged."""

    resolution = 4

    def __init__(self, number: int, damaged: int | None = None) -> None:
        self.number, self.damaged, self.gathered = number, damaged, 0
        self.labels = torch.arange(number) % 3
        self.keys = [str(n) for n in range(number)]

    def __len__(self) -> int:
        return self.number

    @property
    def blocks(self) -> np.ndarray:
        return np.array([0, self.number])

    def gather(self, index: np.ndarray | Tensor) -> Batch:
        self.gathered += 1
        index = torch.as_tensor(index)
        if self.damaged in index.tolist():
            raise OSError("the disk is gone")
        n = len(index)
        return Batch(
            pixels=index.to(torch.uint8)[:, None, None, None].expand(n, 4, 4, 3),
            size=torch.full((n, 2), 4, dtype=torch.int32),
            index=index,
            label=self.labels[index],
        )


def places(loader: Loader, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch.index.tolist() for batch in loader.epoch(epoch, start)]


def flat(batches: list[list[int]]) -> list[int]:
    return [place for batch in batches for place in batch]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("sslpipe")]


def test_each_image_once_an_epoch() -> None:
    loader = Loader(Numbers(50), batch_size=8, seed=1)
    batches = places(loader)
    assert loader.steps == len(batches) == 6
    assert {len(batch) for batch in batches} == {8}
    assert len(set(flat(batches))) == 48
    whole = Loader(Numbers(50), batch_size=8, seed=1, drop_last=False)
    assert whole.steps == 7
    assert sorted(flat(places(whole))) == list(range(50))
    assert places(whole)[:6] == batches


def test_order_is_that_of_seed_and_epoch_alone() -> None:
    first = Loader(Numbers(50), batch_size=8, seed=1)
    other = Loader(Numbers(50), batch_size=5, seed=1)
    assert flat(places(first, 3)) == flat(places(other, 3))[:48]
    assert places(first, 3) != places(first, 4)
    assert places(first, 3) != places(Loader(Numbers(50), batch_size=8, seed=2), 3)
    # A known order, so that a later version of anything cannot change it unnoticed.
    assert Loader(Numbers(8), batch_size=8, seed=7).order(2).tolist() == [6, 7, 4, 0, 1, 5, 3, 2]


def test_orders_are_uniform() -> None:
    loader = Loader(Numbers(4), batch_size=4, seed=0)
    first = np.bincount([loader.order(epoch)[0] for epoch in range(4000)], minlength=4)
    assert ((first - 1000) ** 2 / 1000).sum() < 16.3  # chi-squared, 3 degrees, p = .001


def test_without_shuffling() -> None:
    loader = Loader(Numbers(7), batch_size=3, seed=0, shuffle=False, drop_last=False)
    assert places(loader) == places(loader, 9) == [[0, 1, 2], [3, 4, 5], [6]]


def test_resuming_in_the_middle() -> None:
    loader = Loader(Numbers(50), batch_size=8, seed=1)
    for start in range(7):
        assert places(loader, 5, start) == places(loader, 5)[start:]


@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_share_each_batch(drop_last: bool) -> None:
    alone = places(Loader(Numbers(45), batch_size=8, seed=1, drop_last=drop_last))
    shared = [
        places(Loader(Numbers(45), batch_size=8, seed=1, drop_last=drop_last, rank=rank, world_size=4))
        for rank in range(4)
    ]
    assert [flat(list(parts)) for parts in zip(*shared, strict=True)] == alone
    if drop_last:
        assert {len(batch) for part in shared for batch in part} == {2}


def test_batches_are_the_readers() -> None:
    for batch in Loader(Numbers(20), batch_size=5, seed=0).epoch(0):
        assert torch.equal(batch.pixels[:, 0, 0, 0].long(), batch.index)
        assert torch.equal(batch.label, batch.index % 3)


def test_the_next_batches_are_made_ahead_and_the_thread_ends() -> None:
    reader = Numbers(100)
    batches = Loader(reader, batch_size=10, seed=0).epoch(0)
    assert not threads()
    next(batches)
    assert threads()
    batches.close()
    assert not threads()
    assert reader.gathered <= 3


def test_a_readers_error_comes_in_its_turn() -> None:
    order = Loader(Numbers(100), batch_size=10, seed=0).order(0).tolist()
    batches = Loader(Numbers(100, damaged=order[25]), batch_size=10, seed=0).epoch(0)
    next(batches)
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert not threads()


def test_what_cannot_be() -> None:
    with pytest.raises(UserError, match="batch_size 8 is more than the 7 images"):
        Loader(Numbers(7), batch_size=8, seed=0)
    assert Loader(Numbers(7), batch_size=8, seed=0, drop_last=False).steps == 1
    with pytest.raises(UserError, match="batch_size 8 cannot be shared evenly by 3 processes"):
        Loader(Numbers(20), batch_size=8, seed=0, world_size=3)
    with pytest.raises(ValueError, match="make no sense"):
        Loader(Numbers(20), batch_size=8, seed=0, rank=2, world_size=2)


class InShards(Numbers):
    """Numbers in shards of these sizes."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(sum(sizes))
        self.sizes = sizes

    @property
    def blocks(self) -> np.ndarray:
        return np.cumsum([0, *self.sizes])


def test_few_shards_are_mixed_as_one() -> None:
    whole = Loader(Numbers(50), batch_size=8, seed=1)
    parts = Loader(InShards(20, 7, 23), batch_size=8, seed=1, shuffle_shards=3)
    assert parts.order(4).tolist() == whole.order(4).tolist()


def test_many_shards_are_mixed_a_few_at_a_time() -> None:
    sizes = (10, 3, 8, 1, 10, 10, 6)
    loader = Loader(InShards(*sizes), batch_size=7, seed=1, shuffle_shards=2, drop_last=False)
    shard_of = np.repeat(np.arange(7), sizes)
    seen = set()
    for epoch in range(20):
        order = loader.order(epoch)
        assert sorted(order.tolist()) == list(range(48))
        assert flat(places(loader, epoch)) == order.tolist()
        first_two = list(dict.fromkeys(shard_of[order]))[:2]
        together = sum(sizes[shard] for shard in first_two)
        assert set(shard_of[order[:together]]) == set(first_two)  # both whole before any other
        assert order[:together].tolist() != sorted(order[:together])
        seen.add(tuple(first_two))
    assert len(seen) > 8
    # A known order, so that a later version of anything cannot change it unnoticed.
    known = Loader(InShards(2, 2, 2, 2), batch_size=8, seed=7, shuffle_shards=2)
    assert known.order(2).tolist() == [6, 7, 3, 2, 1, 5, 0, 4]


def test_resuming_in_many_shards() -> None:
    loader = Loader(InShards(10, 3, 8, 1, 10, 10, 6), batch_size=5, seed=1, shuffle_shards=2)
    batches = places(loader, 3)
    assert len(batches) == loader.steps == 9
    for start in range(10):
        assert places(loader, 3, start) == batches[start:]


def test_what_is_left_out_differs_between_epochs() -> None:
    loader = Loader(InShards(10, 10, 10), batch_size=16, seed=0, shuffle_shards=1)
    left = [set(range(30)) - set(flat(places(loader, epoch))) for epoch in range(6)]
    assert {len(each) for each in left} == {14}
    assert len({frozenset(each) for each in left}) == 6


def test_uneven_shards_give_every_rank_as_many_batches() -> None:
    reader = InShards(1, 31, 2, 5)
    for start in (0, 2):
        counts = [
            [
                len(b)
                for b in Loader(reader, batch_size=6, seed=0, shuffle_shards=1, rank=r, world_size=3).epoch(
                    1, start
                )
            ]
            for r in range(3)
        ]
        assert counts[0] == counts[1] == counts[2] == [2] * (6 - start)
