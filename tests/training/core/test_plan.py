"""How many processes train, what they are refused, and where machines meet."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch

from sslpipe.console.errors import UserError
from sslpipe.training.core import plan
from sslpipe.training.core.config import Config
from sslpipe.training.launch.role import role


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable says that this process is one of several."""
    for name in ("RANK", "WORLD_SIZE", "PET_NNODES", "PET_RDZV_ENDPOINT", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def config(**settings: Any) -> Config:
    return Config.parse(settings)


def test_by_default_a_cpu_has_one_process_and_none_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert plan.processes(Config()) == plan.world_size(Config()) == 1
    with role(Config(), "no.such.module") as part:
        assert part == "records"


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 4),
        ({"device": "cuda"}, 4),
        ({"device": "cpu"}, 1),
        ({"device": "cuda:1"}, 1),
        ({"devices": 2}, 2),
        ({"devices": 3, "device": "cpu"}, 3),
        ({"devices": 1, "device": "cuda:1"}, 1),
    ],
)
def test_a_process_a_gpu_or_as_many_as_are_wanted(settings: dict[str, Any], count: int) -> None:
    assert plan.processes(config(**settings)) == count


@pytest.mark.usefixtures("four_gpus")
def test_more_than_there_are_gpus_are_refused() -> None:
    with pytest.raises(UserError, match="devices is 5 and this machine has 4 GPUs"):
        plan.processes(config(devices=5))
    with pytest.raises(UserError, match="names one, cuda:1"):
        plan.processes(config(devices=2, device="cuda:1"))


def test_a_process_that_others_started_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with role(config(devices=2, device="cpu", launch="slurm"), "no.such.module") as part:
        assert part == "records"
    monkeypatch.setenv("WORLD_SIZE", "6")
    assert plan.world_size(config()) == 6


@pytest.mark.parametrize(
    ("settings", "count", "said"),
    [
        ({"batch_size": 16}, 3, "set it to 15 or 18, or train in 2"),
        ({"batch_size": 2}, 4, "set it to 4, or train in 2"),
        (
            {"batch_size": 16, "accumulate": 4},
            4,
            "4 images of a batch of 16, which do not make 4 equal parts",
        ),
        (
            {"batch_size": 12, "accumulate": 4},
            2,
            "6 images of a batch of 12, which do not make 4 equal parts",
        ),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(settings: dict[str, Any], count: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan.check_shares(config(**settings), count)


def test_batches_that_can_be_shared_pass() -> None:
    plan.check_shares(config(batch_size=16, accumulate=4), 2)
    plan.check_shares(config(batch_size=15), 5)
    plan.check_shares(config(batch_size=3, accumulate=2), 1)  # another check's business


def test_what_check_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(plan.check(config())) == ["processes: 1"]
    (line,) = plan.check(config(devices=4))
    assert line == "processes: 4, 32 images of each batch a process"
    cluster = {"nodes": 2, "endpoint": "somewhere:29400"}
    line, note = plan.check(config(devices=16, cluster=cluster))
    assert line == "processes: 32 on 2 machines, 4 images of each batch a process"
    assert "4 images at a time" in note
    with pytest.raises(UserError, match=r"do not know where to meet: set pretrain\.cluster\.endpoint"):
        list(plan.check(config(cluster={"nodes": 2})))
    with pytest.raises(UserError, match=r"launch is slurm and pretrain\.devices is"):
        list(plan.check(config(launch="slurm")))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'sslpipe\[slurm\]'"):
        list(plan.check(config(launch="slurm", devices=2)))


def test_the_usual_variables_say_where_machines_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_NNODES", "3")
    assert plan.nodes(config()) == 3
    monkeypatch.setenv("MASTER_ADDR", "first")
    assert plan.endpoint(config()) == "first:29400"
    monkeypatch.setenv("MASTER_PORT", "7")
    assert plan.endpoint(config()) == "first:7"
    monkeypatch.setenv("PET_RDZV_ENDPOINT", "second:8")
    assert plan.endpoint(config()) == "second:8"
    assert plan.endpoint(config(cluster={"endpoint": "third:9"})) == "third:9"


def test_a_machine_knows_whether_others_meet_there_and_by_which_interface_it_gets_there() -> None:
    from sslpipe.training.launch.agent import _Place

    here = _Place.of("localhost:1")
    assert (here.address, here.host, here.interface) == ("127.0.0.1", True, "lo")
    with pytest.raises(UserError, match="cannot be reached from here"):
        _Place.of("no-such-host.invalid:1")
    try:
        elsewhere = _Place.of("192.0.2.1:1")  # an address for examples
    except UserError:
        pytest.skip("this machine has no network")
    assert not elsewhere.host
    assert elsewhere.interface in [name for _, name in socket.if_nameindex()]
