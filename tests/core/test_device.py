"""Devices by name, and what travels between them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pretended import Gpu, pretending

from sslpipe.console.errors import UserError
from sslpipe.core.device import (
    Arriving,
    Late,
    make_deterministic,
    on_host,
    refusals_explained,
    resolve,
    take,
    to_device,
)


@pytest.fixture
def gpus() -> Iterator[Gpu]:
    with pretending(2) as found:
        yield found


@pytest.fixture
def undone() -> Iterator[None]:
    yield
    make_deterministic(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def test_names_of_devices(gpus: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("auto") == resolve("cuda") == torch.device("cuda", 0)
    assert resolve("cuda:1") == torch.device("cuda", 1)
    assert resolve("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match=r"2 GPUs here, the last of them is cuda:1"):
        resolve("cuda:2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve("auto") == resolve("cuda") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "3")  # a scheduler that shows each process two GPUs of eight
    assert resolve("auto") == torch.device("cuda", 1)


def test_the_device_that_is_taken_is_the_current_one(gpus: Gpu) -> None:
    assert take("cuda:1") == torch.device("cuda", 1)
    assert torch.cuda.current_device() == 1
    assert take("cpu") == torch.device("cpu")
    assert torch.cuda.current_device() == 1


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve("auto") == take("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="torch finds no GPU here"):
        resolve("cuda")


def test_what_travels_does_not_wait(gpus: Gpu) -> None:
    there = to_device(torch.arange(3.0), torch.device("cuda", 0))
    assert there.is_cuda
    assert to_device(there, torch.device("cuda", 0)) is there
    arriving = Arriving(there * 2)
    assert not gpus.of("wait", "pageable")
    assert arriving.get().tolist() == [0, 2, 4]
    found = list(on_host(there * factor for factor in (1, 2, 3)))
    assert [each.tolist() for each in found] == [[0, 1, 2], [0, 2, 4], [0, 3, 6]]
    assert not gpus.of("wait", "pageable", "race")


def test_numbers_are_read_late_from_a_gpu_and_at_once_from_a_cpu(gpus: Gpu) -> None:
    late = Late(lag=2)
    assert [late(torch.full((), float(n), device="cuda")) for n in range(4)] == [None, None, 0, 1]
    assert list(late.rest()) == [2, 3]
    assert late.caption(torch.tensor(1.25)) == "loss 1.250"
    assert late.caption(torch.ones((), device="cuda")) == ""
    assert not gpus.of("wait")


@pytest.mark.usefixtures("undone")
def test_on_a_gpu_determinism_is_strict_and_memory_is_not_written_twice(gpus: Gpu) -> None:
    make_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    # Flash attention's gradient is the same every time only if torch may raise, see its `_flash_attention_backward`.
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.backends.cudnn.benchmark
    make_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("undone")
def test_what_has_no_deterministic_form_is_told_with_the_setting() -> None:
    torch.use_deterministic_algorithms(True)
    place = torch.tensor([0, 0])
    with (
        pytest.raises(UserError, match=r"put_.* set pretrain.deterministic to false"),
        refusals_explained("pretrain.deterministic"),
    ):
        torch.zeros(3).put_(place, torch.ones(2))
    with pytest.raises(RuntimeError, match="other"), refusals_explained("pretrain.deterministic"):
        raise RuntimeError("other")
