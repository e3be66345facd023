"""The ring of vectors; over several processes it is tested in tests/methods/test_moco.py."""

import pytest
import torch
from torch import Tensor

from sslpipe.console.errors import UserError
from sslpipe.networks.queue import Queue, check_length


def rows(*numbers: int) -> Tensor:
    """One vector a number, which it holds twice."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, 2)


def contents(queue: Queue) -> list[float]:
    return queue.vectors[:, 0].tolist()


def test_it_starts_with_random_directions_none_of_them_real() -> None:
    torch.manual_seed(0)
    queue = Queue(512, 3)
    assert len(queue) == 512
    assert not queue.full
    torch.testing.assert_close(queue.vectors.norm(dim=1), torch.ones(512))
    assert queue.vectors.mean(dim=0).norm() < 0.1  # to all sides
    assert len(queue.vectors.unique(dim=0)) == 512


def test_vectors_wait_until_advance() -> None:
    queue = Queue(4, 2)
    start = queue.vectors.clone()
    queue.add(rows(1, 2))
    assert torch.equal(queue.vectors, start)
    queue.advance()
    assert contents(queue)[:2] == [1, 2]
    assert torch.equal(queue.vectors[2:], start[2:])


def test_parts_of_a_batch_enter_together_in_their_order() -> None:
    queue = Queue(8, 2)
    for part in (rows(1, 2), rows(3, 4)):
        queue.add(part)
    queue.advance()
    assert contents(queue)[:4] == [1, 2, 3, 4]
    queue.advance()  # nothing waits any more
    queue.add(rows(5, 6, 7, 8))
    queue.advance()
    assert contents(queue) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_ring_wraps_exactly() -> None:
    queue, expected = Queue(6, 2), [0.0] * 6
    for batch in range(10):
        queue.add(rows(2 * batch, 2 * batch + 1))
        queue.advance()
        place = 2 * (batch % 3)
        expected[place : place + 2] = [2 * batch, 2 * batch + 1]
        assert queue.full == (batch >= 2)
        if queue.full:
            assert contents(queue) == expected


def test_what_is_added_keeps_no_graph() -> None:
    queue = Queue(2, 2)
    queue.add(torch.ones(2, 2, requires_grad=True) * 2)
    assert not queue._waiting[0].requires_grad
    queue.advance()
    assert not queue.vectors.requires_grad


def test_half_precision_is_widened() -> None:
    queue = Queue(2, 2)
    queue.add(rows(1, 2).bfloat16())
    queue.advance()
    assert queue.vectors.dtype == torch.float32
    assert contents(queue) == [1, 2]


def test_another_ring_takes_up_where_it_stood() -> None:
    first, second = Queue(4, 2), Queue(4, 2)
    for batch in (rows(1, 2), rows(3, 4), rows(5, 6)):
        first.add(batch)
        first.advance()
    second.load_state_dict(first.state_dict())
    assert second.full
    for queue in (first, second):
        queue.add(rows(7, 8))
        queue.advance()
    assert contents(second) == contents(first) == [5, 6, 7, 8]


def test_its_state_is_tensors() -> None:
    assert all(isinstance(value, Tensor) for value in Queue(4, 2).state_dict().values())


@pytest.mark.parametrize(
    ("length", "batch", "advice"), [(100, 64, "64 or 128"), (32, 64, "64"), (65, 64, "64 or 128")]
)
def test_a_length_that_does_not_divide_is_refused(length: int, batch: int, advice: str) -> None:
    expected = (
        f"a queue of {length} is not a multiple of the global batch of {batch}: set the queue to {advice}$"
    )
    with pytest.raises(UserError, match=expected):
        check_length(length, batch)
    queue = Queue(length, 2)
    queue.add(torch.ones(batch, 2))
    with pytest.raises(UserError, match=expected):
        queue.advance()


def test_a_length_that_divides_is_taken() -> None:
    check_length(128, 64)
    check_length(64, 64)
    check_length(0, 64)
