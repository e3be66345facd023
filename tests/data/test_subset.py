from __future__ import annotations

import torch
from support import ToyReader

from sslpipe.data.subset import Subset, labelled


def test_a_subset_reads_through_and_keeps_the_whole_splits_places(toy_reader: ToyReader) -> None:
    subset = Subset(toy_reader, torch.tensor([5, 9, 2]))
    batch = subset.gather([2, 0])
    assert batch.index.tolist() == [2, 5]
    assert torch.equal(batch.pixels, toy_reader.pixels[[2, 5]])
    assert subset.labels.tolist() == [1, 1, 2]
    assert len(subset) == 3


def test_images_without_a_label_are_left_out(toy_reader: ToyReader) -> None:
    assert labelled(toy_reader) is toy_reader
    toy_reader.labels[[0, 3]] = -1
    some = labelled(toy_reader)
    assert some.gather(range(3)).index.tolist() == [1, 2, 4]
    assert len(some) == len(toy_reader) - 2
    assert len(some.keys) == len(some)
    assert (some.labels >= 0).all()
