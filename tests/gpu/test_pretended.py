"""The pretended GPU itself: each kind of fault, planted, is found, and what is right is not."""

from __future__ import annotations

import threading

import pytest
import torch
from pretended import DeviceMismatch, Gpu, pretending
from torch import nn


@pytest.fixture
def plain() -> Gpu:
    with pretending(2) as gpu:
        yield gpu


def test_tensors_of_two_devices_do_not_meet(plain: Gpu) -> None:
    there = torch.ones(3, device="cuda")
    with pytest.raises(DeviceMismatch, match="on the CPU"):
        there + torch.ones(3)
    with pytest.raises(DeviceMismatch, match=r"cuda:\[0, 1\]"):
        there + torch.ones(3, device="cuda:1")
    assert (there + torch.tensor(1.0)).is_cuda  # a scalar of the CPU may


def test_a_generator_belongs_to_its_device(plain: Gpu) -> None:
    with pytest.raises(DeviceMismatch, match="generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())


def test_an_optimiser_and_a_clip_take_one_device(plain: Gpu) -> None:
    parameter = nn.Parameter(torch.ones(2))
    moved = nn.Parameter(torch.ones(2).to("cuda"))
    for each in (parameter, moved):
        each.grad = torch.ones_like(each)
    with pytest.raises(DeviceMismatch):
        torch.nn.utils.clip_grad_norm_([moved, parameter], 1.0)


def test_values_are_those_of_a_cpu(plain: Gpu) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    x = torch.randn(5, 3, 4, 4)
    want = network(x)
    want.sum().backward()
    gradient = network[0].weight.grad.clone()
    network.zero_grad()
    there = network.to("cuda")(x.to("cuda"))
    there.sum().backward()
    assert torch.equal(there.detach().cpu(), want.detach())
    assert torch.equal(network[0].weight.grad.cpu(), gradient)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: float(x.sum()), "_local_scalar_dense"),
        (lambda x: bool(x.sum() > 0), "_local_scalar_dense"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu(), "a copy from the device"),
        (lambda x: x.to("cpu"), "a copy from the device"),
        (lambda x: x[x > 0], "indexing by a mask"),
        (lambda x: x[torch.tensor([0, 1])], "indexing by a CPU tensor"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: torch.ones(3).to("cuda"), "a copy to the device"),
        (lambda x: torch.tensor([1.0], device="cuda"), "a copy to the device"),
        (lambda x: x.new_tensor([1.0]), "new_tensor"),
        (lambda x: torch.cuda.synchronize(), "synchronize"),
        (lambda x: torch.cuda.current_stream().synchronize(), "synchronize"),
    ],
)  # fmt: skip
def test_what_makes_the_host_wait_is_noted(plain: Gpu, what: object, said: str) -> None:
    x = torch.ones(3, device="cuda")
    assert not plain.of("wait")
    what(x)  # type: ignore[operator]
    (found,) = plain.of("wait")
    assert said in found
    assert "test_pretended.py" in found, "it says where"


def test_what_does_not_wait_is_not_noted(plain: Gpu) -> None:
    x = torch.ones(3, device="cuda")
    torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    torch.empty(3, pin_memory=True).copy_(x, non_blocking=True)
    x.masked_fill_(x > 0, 2.0)
    x[x > 0] = 0.0
    torch.where(x > 0, x, 0)
    assert not plain.of("wait", "pageable", "race")


def test_a_copy_of_pageable_memory_is_noted(plain: Gpu) -> None:
    torch.ones(3).to("cuda", non_blocking=True)
    torch.empty(3).copy_(torch.ones(3, device="cuda"), non_blocking=True)
    assert len(plain.of("pageable")) == 2


def test_phases_name_what_a_thread_does(plain: Gpu) -> None:
    with plain.phase("step"):
        torch.ones((), device="cuda").item()
    torch.ones((), device="cuda").item()
    assert len(plain.of("wait", phase="step")) == 1
    assert len(plain.of("wait")) == 2


def test_a_read_before_the_writer_is_known_to_be_done_is_a_race(plain: Gpu) -> None:
    side, x = torch.cuda.Stream(), torch.ones(3, device="cuda")
    with torch.cuda.stream(side):
        x + 1
    assert "reads what default stream of cuda:0 may not be done with" in plain.of("race")[0]


def test_a_write_before_the_reader_is_known_to_be_done_is_a_race(plain: Gpu) -> None:
    side, x = torch.cuda.Stream(), torch.ones(3, device="cuda")
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        x + 1
    assert not plain.of("race")
    x.zero_()
    assert "writes what side stream" in plain.of("race")[0]


def test_events_order_streams(plain: Gpu) -> None:
    side, x = torch.cuda.Stream(), torch.ones(3, device="cuda")
    made = torch.cuda.current_stream().record_event()
    with torch.cuda.stream(side):
        side.wait_event(made)
        y = x + 1
        done = side.record_event()
    torch.cuda.current_stream().wait_event(done)
    z = y + x
    y.record_stream(torch.cuda.current_stream())
    del y
    x.zero_()
    assert not plain.of("race")
    assert z.cpu().tolist() == [3.0, 3.0, 3.0]


def test_an_event_says_nothing_of_later_work(plain: Gpu) -> None:
    side = torch.cuda.Stream()
    early = torch.cuda.current_stream().record_event()
    x = torch.ones(3, device="cuda")
    with torch.cuda.stream(side):
        side.wait_event(early)
        x + 1
    assert plain.of("race")


def test_waiting_by_way_of_a_third_stream_counts(plain: Gpu) -> None:
    first, second, x = torch.cuda.Stream(), torch.cuda.Stream(), torch.ones(3, device="cuda")
    first.wait_stream(torch.cuda.current_stream())
    second.wait_stream(first)
    with torch.cuda.stream(second):
        x + 1
    assert not plain.of("race")


def test_a_host_that_has_waited_orders_all_streams(plain: Gpu) -> None:
    side, x = torch.cuda.Stream(), torch.ones(3, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        x + 1
    assert not plain.of("race")


def test_memory_freed_in_use_is_a_race(plain: Gpu) -> None:
    side = torch.cuda.Stream()
    for record in (True, False):
        x = torch.ones(3, device="cuda")
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            x + 1
        if record:
            x.record_stream(side)
        del x
        assert bool(plain.of("race")) != record
    assert "is freed while side stream" in plain.of("race")[0]


def test_views_of_memory_are_that_memory(plain: Gpu) -> None:
    side, x = torch.cuda.Stream(), torch.ones(4, 4, device="cuda")
    rows = x[1:3].T
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        rows.zero_()
    x + 1
    assert "reads what side stream" in plain.of("race")[0]


def test_streams_and_devices_are_a_threads_own(plain: Gpu) -> None:
    seen = []
    with torch.cuda.device(1), torch.cuda.stream(torch.cuda.Stream("cuda:1")):

        def look() -> None:
            seen.append((torch.cuda.current_device(), torch.cuda.current_stream()))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert torch.cuda.current_device() == 1
    assert seen == [(0, plain.default[0])]


def test_memory_formats_and_gradients_pass_through(plain: Gpu) -> None:
    x = torch.randn(2, 3, 4, 4).to("cuda").contiguous(memory_format=torch.channels_last).requires_grad_()
    assert x.is_contiguous(memory_format=torch.channels_last)
    (x.to("cpu") * 2).sum().backward()
    assert x.grad is not None
    assert x.grad.is_cuda
