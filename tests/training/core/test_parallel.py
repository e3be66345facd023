"""Two real processes that train together, by torch's wrappers, do what one does with the whole batch."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
import torch._dynamo  # slow, and once for both ranks: torch wants it at the first checkpoint
import torch.distributed as dist
import torch.distributed.fsdp  # the same
from support import SIZE, SMALL, ToyReader, small_engine
from torch import Tensor, nn

from sslpipe import methods, networks
from sslpipe.console.errors import UserError
from sslpipe.core import distributed
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.data.loader import Loader
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Clock, Method
from sslpipe.training.core import loop, parallel, worker
from sslpipe.training.core.config import Config
from sslpipe.training.core.ledger import Ledger
from sslpipe.training.core.loop import train
from sslpipe.training.core.step import seeded_clock

pytestmark = pytest.mark.slow

BATCH = 16
SGD = OptimizerConfig(name="sgd", lr=0.01, rule="absolute", warmup_epochs=0, weight_decay=0.01)
ADAMW = OptimizerConfig(name="adamw", lr=1e-4, rule="absolute", warmup_epochs=0, clip=1.0)
LARS = OptimizerConfig(name="lars", lr=0.01, rule="absolute", warmup_epochs=0)
#: MoCo's shuffled batch norm sees one rank's images only, and is meant to.
CHANGES: dict[str, dict[str, Any]] = {"moco": {"shuffle": False, "queue": 32}}
SAVED = "SSLPIPE_TEST_SAVED"
VIT = {"width": 32, "depth": 2, "heads": 2}


def method_of(name: str, vit: bool = False, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    kind = "small_vit" if vit else methods.find(name).default_backbone
    options = VIT if kind == "small_vit" else {"width": 8, "stages": 3}
    backbone = networks.backbone(kind, image_size=SIZE, **options)
    return methods.build(name, backbone, SMALL.get(name, {}) | CHANGES.get(name, {}))


def loader_of(config: Config) -> Loader:
    many = distributed.world_size()
    return Loader(
        ToyReader(), batch_size=BATCH, seed=0, rank=distributed.rank(), world_size=many,
        parts=config.accumulate if many > 1 else 1,
    )  # fmt: skip


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """One folder for all ranks."""
    folder = parallel.agreed(tempfile.mkdtemp() if distributed.rank() == 0 else None)
    yield Path(folder)
    if distributed.world_size() > 1:
        dist.barrier()
    shutil.rmtree(folder, ignore_errors=True)


def found(method: Method, history: Any) -> dict[str, Tensor]:
    """Losses, and all that the method holds."""
    state = {k: v for k, v in parallel.whole(method.state_dict()).items() if isinstance(v, Tensor)}
    if distributed.rank() > 0 and any(map(parallel.is_sharded, method.parameters())):
        state = {}  # what was sharded is whole on the first rank only
    sharded = any(map(parallel.is_sharded, method.parameters()))
    return {
        "losses": torch.tensor([row["loss"] for row in history.rows]),
        "sharded": torch.tensor(sharded),
    } | state


def trained(
    name: str,
    vit: bool = False,
    optimizer: OptimizerConfig = SGD,
    lag: int = 0,
    **settings: Any,
) -> dict[str, Tensor]:
    """Two epochs of two steps."""
    config = Config(
        batch_size=BATCH, epochs=2, log_every=1, checkpoint_seconds=1e9, precision="fp32", **settings
    )
    method, before = method_of(name, vit), loop.Ledger
    loop.Ledger = partial(Ledger, lag=lag)  # type: ignore[assignment, misc]
    try:
        with shared_folder() as folder:
            history = train(
                method, loader_of(config), small_engine(name), config, optimizer,
                seed=0, checkpoints=Checkpoints(folder),
            )  # fmt: skip
    finally:
        loop.Ledger = before  # type: ignore[misc]
    return found(method, history)


def resumed(first: str, second: str) -> dict[str, Tensor]:
    """One epoch with one sharding, saved, and one more with another."""
    config = Config(
        batch_size=BATCH, epochs=2, log_every=1, checkpoint_seconds=0, precision="fp32", sharding=first
    )
    with shared_folder() as folder:
        checkpoints = Checkpoints(folder, keep=9)
        train(
            method_of("mocov3", vit=True), loader_of(config), small_engine("mocov3"), config, ADAMW,
            seed=0, checkpoints=checkpoints,
        )  # fmt: skip
        if distributed.rank() == 0:
            for newer in sorted(folder.glob("0*.safetensors"))[2:]:
                newer.unlink()
        if distributed.world_size() > 1:
            dist.barrier()
        method = method_of("mocov3", vit=True, seed=5)
        history = train(
            method, loader_of(config), small_engine("mocov3"), config.model_copy(update={"sharding": second}), ADAMW,
            seed=0, checkpoints=checkpoints,
        )  # fmt: skip
    return found(method, history)


def every_transformer() -> dict[str, Tensor]:
    """Losses of all methods that train vision transformers, sharded, with steps that move momentum networks."""
    config = Config(
        batch_size=BATCH, epochs=2, log_every=1, checkpoint_seconds=1e9, precision="fp32", sharding="fsdp"
    )
    losses = {}
    for name in methods.names():
        if "vit" in methods.find(name).takes:
            with shared_folder() as folder:
                engine = small_engine(name, backbone="small_vit")
                history = train(
                    method_of(name, vit=True), loader_of(config), engine, config, ADAMW,
                    seed=0, checkpoints=Checkpoints(folder),
                )  # fmt: skip
            losses[name] = torch.tensor([row["loss"] for row in history.rows])
    return losses


def saved() -> dict[str, Tensor]:
    """The first of two epochs, saved in a folder that the test names."""
    config = Config(batch_size=BATCH, epochs=2, log_every=1, checkpoint_seconds=0, precision="fp32")
    checkpoints = Checkpoints(Path(os.environ[SAVED]), keep=9)
    train(
        method_of("byol"),
        loader_of(config),
        small_engine("byol"),
        config,
        SGD,
        seed=0,
        checkpoints=checkpoints,
    )
    return {}


def elsewhere() -> dict[str, Tensor]:
    """Nothing, if a rank that does not see the first one's checkpoint is noticed by all."""
    with tempfile.TemporaryDirectory() as own:
        checkpoints = Checkpoints(Path(own))
        if distributed.rank() == 0:
            checkpoints.save(7, {})
        with pytest.raises(UserError, match=r"goes on from step 7, and others find .*'None'"):
            parallel.newest(checkpoints)
    return {}


def turns() -> dict[str, Tensor]:
    """Whether the first of two processes had made something when the other came to it."""
    worker._store = dist.PrefixStore("turns", dist.distributed_c10d._get_default_store())
    found = []
    for everywhere in (False, True):
        for local in (distributed.rank(), 0):  # on one machine; on two
            os.environ["LOCAL_RANK"] = str(local)
            with shared_folder() as folder, worker.first(everywhere=everywhere):
                found.append((folder / "made").exists())
                if distributed.rank() == 0:
                    time.sleep(0.3)
                    (folder / "made").touch()
    return {"found": torch.tensor(found)}


def views() -> dict[str, Tensor]:
    """The views of two epochs, in the order in which they are trained on."""
    config = Config(batch_size=BATCH, accumulate=2)
    engine, all_views = small_engine("simclr"), []
    for epoch in range(2):
        for batch in loader_of(config).epoch(epoch):
            for view in engine(batch, epoch):
                # The parts of a batch one after another, each with its ranks' rows in order.
                parts = [distributed.gather(part) for part in view.pixels.chunk(2)]
                all_views.append(torch.cat(parts))
    return {"views": torch.stack(all_views)}


class Odd(nn.Module):
    """A network of which one half has no gradient in every other step."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.backbone = networks.backbone("small_resnet", image_size=SIZE, width=4, stages=3).requires_grad_(
            False
        )

    def step(self, x: Tensor, clock: Clock) -> Any:
        from sslpipe.methods.base.method import Step

        return Step(((self.a if clock.step % 2 else self.b)(x)).square().sum())


def sometimes() -> dict[str, Tensor]:
    """Which parameters have a gradient, over a few steps."""
    torch.manual_seed(0)
    odd, rows = Odd(), []
    wrapped = parallel.wrap(odd, Config())  # type: ignore[arg-type]
    for number in range(4):
        odd.zero_grad(set_to_none=True)
        x = torch.full((1, 2), float(distributed.rank() + 1))
        wrapped.step(x, Clock(number, 0, 0.0, torch.Generator())).loss.backward()
        rows.append([odd.a.weight.grad is not None, odd.b.weight.grad is not None])
    return {"has": torch.tensor(rows), "gradient": odd.a.weight.grad}  # type: ignore[dict-item]


def dropped() -> dict[str, Tensor]:
    """What torch draws in a step, and what the clock's generator does."""
    clock = seeded_clock(3, 0, 10, seed=0, device=torch.device("cpu"))
    return {"torch": torch.rand(2), "generator": torch.rand(2, generator=clock.generator)}


FSDP: dict[str, Any] = {"vit": True, "sharding": "fsdp"}
SHARDED: dict[str, Callable[[], dict[str, Tensor]]] = {
    "fsdp-mae": partial(trained, "mae", sharding="fsdp"),
    "fsdp-mocov3": partial(trained, "mocov3", **FSDP),
    "fsdp-adamw-clipped": partial(trained, "mocov3", optimizer=ADAMW, **FSDP),
    "fsdp-read-late": partial(trained, "mocov3", optimizer=ADAMW, lag=3, **FSDP),
    "fsdp-lars-read-late": partial(trained, "mocov3", optimizer=LARS, lag=3, **FSDP),
    "fsdp-parts": partial(trained, "mocov3", accumulate=2, **FSDP),
    "fsdp-cache": partial(trained, "mocov3", accumulate=2, gradient_cache=True, **FSDP),
    "fsdp-to-ddp": partial(resumed, "fsdp", "ddp"),
    "ddp-to-fsdp": partial(resumed, "ddp", "fsdp"),
}
COPIED: dict[str, Callable[[], dict[str, Tensor]]] = {
    "simclr": partial(trained, "simclr"),
    "moco": partial(trained, "moco"),
    "swav": partial(trained, "swav", optimizer=SGD.model_copy(update={"momentum": 0.0})),
    "mae": partial(trained, "mae"),
    "read-late": partial(trained, "simclr", lag=3),
    "parts": partial(trained, "simclr", accumulate=2),
    "queue-parts": partial(trained, "moco", accumulate=2),
    "cache": partial(trained, "simclr", accumulate=2, gradient_cache=True),
}
WORKS = COPIED | SHARDED | {
    "every_transformer": every_transformer, "saved": saved, "elsewhere": elsewhere, "turns": turns,
    "views": views, "sometimes": sometimes, "dropped": dropped,
}  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> ranks.Found:
    os.environ[SAVED] = str(tmp_path_factory.mktemp("saved"))
    return ranks.run(__file__, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("work", [*COPIED, *SHARDED])
def test_two_processes_end_with_the_weights_of_one(both: ranks.Found, work: str) -> None:
    alone = WORKS[work]()
    start = {k: v for k, v in method_of(*_arguments(work)).state_dict().items() if isinstance(v, Tensor)}
    moved = torch.stack([(alone[k] - v).norm() for k, v in start.items() if v.is_floating_point()]).norm()
    apart = []
    for rank, found in enumerate(both[work]):
        assert bool(found["sharded"]) == (work in SHARDED and work != "fsdp-to-ddp")
        if rank == 1 and work in SHARDED and work != "fsdp-to-ddp":
            continue
        assert found.keys() == alone.keys()
        torch.testing.assert_close(found["losses"], alone["losses"], rtol=1e-4, atol=1e-5)
        for key, value in start.items():
            if value.is_floating_point() and not key.endswith("vectors"):
                apart.append((found[key] - alone[key]).norm())
    assert moved > 0.01
    assert torch.stack(apart).norm() < 2e-3 * moved


def _arguments(work: str) -> tuple[str, bool]:
    piece: Any = WORKS[work]
    if piece.func is resumed:
        return "mocov3", True
    return piece.args[0], piece.keywords.get("vit", False)


def test_every_method_trains_sharded_transformers_as_whole_ones(both: ranks.Found) -> None:
    alone = every_transformer()
    assert len(alone) > 8
    ranks.check_same(both["every_transformer"], alone, rtol=1e-3, atol=1e-4)


def test_one_process_goes_on_where_two_stopped(both: ranks.Found, capsys: pytest.CaptureFixture[str]) -> None:
    assert both["saved"] == [{}, {}]
    folder = Path(os.environ[SAVED])
    for newer in sorted(folder.glob("0*.safetensors"))[2:]:
        newer.unlink()
    config = Config(batch_size=BATCH, epochs=2, log_every=1, checkpoint_seconds=1e9, precision="fp32")
    method, whole = method_of("byol", seed=5), method_of("byol")
    train(
        method, loader_of(config), small_engine("byol"), config, SGD, seed=0, checkpoints=Checkpoints(folder)
    )
    said = capsys.readouterr().out
    assert (
        "continuing from the checkpoint at step 2 of 2 in 1 processes: sums are rounded in another order"
        in said
    )
    with shared_folder() as folder:
        train(
            whole,
            loader_of(config),
            small_engine("byol"),
            config,
            SGD,
            seed=0,
            checkpoints=Checkpoints(folder),
        )
    for (name, a), b in zip(method.named_parameters(), whole.parameters(), strict=True):
        assert (a - b).norm() <= 1e-3 * b.norm() + 1e-4, name


def test_a_checkpoint_that_not_all_see_is_refused_by_all(both: ranks.Found) -> None:
    assert both["elsewhere"] == [{}, {}]


def test_the_first_process_of_a_machine_goes_before_its_others(both: ranks.Found) -> None:
    first, second = (rank["found"].tolist() for rank in both["turns"])
    assert first == [False] * 4
    assert second == [True, False, True, True]  # on a machine of its own it waits for none, but everywhere


def test_the_views_are_those_of_one_process_exactly(both: ranks.Found) -> None:
    alone = views()["views"]
    for rank in both["views"]:
        assert torch.equal(rank["views"], alone)


def test_parameters_may_have_no_gradient_in_some_steps(both: ranks.Found) -> None:
    for rank in both["sometimes"]:
        assert rank["has"].tolist() == [[False, True], [True, False]] * 2
    first, second = both["sometimes"]
    assert torch.equal(first["gradient"], second["gradient"])


def test_ranks_drop_different_things_and_draw_the_same(both: ranks.Found) -> None:
    first, second = both["dropped"]
    assert torch.equal(first["torch"], dropped()["torch"])
    assert not torch.equal(first["torch"], second["torch"])
    assert torch.equal(first["generator"], second["generator"])


def test_large_transformers_are_sharded_and_convolutions_never() -> None:
    with torch.device("meta"):
        large = methods.build(
            "mae", networks.backbone("small_vit", image_size=32, width=1024, depth=24, heads=16), {}
        )
        convolutions = methods.build("simclr", networks.backbone("small_resnet", image_size=32), {})
    assert parallel.sharded(large, Config())
    assert not parallel.sharded(large, Config(sharding="ddp"))
    assert not parallel.sharded(method_of("mae"), Config())
    assert not parallel.sharded(convolutions, Config())
    with pytest.raises(UserError, match="small_resnet is none"):
        parallel.sharded(convolutions, Config(sharding="fsdp"))


def test_alone_nothing_is_wrapped() -> None:
    method = method_of("simclr")
    assert parallel.wrap(method, Config(sharding="fsdp")) is method
