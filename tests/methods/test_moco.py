from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from support import ToyReader, small_method
from torch import Tensor, nn

from sslpipe import distributed, methods, networks
from sslpipe.errors import UserError
from sslpipe.methods.base import Clock, OptimizerConfig
from sslpipe.training.schedules import rate_factor
from sslpipe.views import ViewEngine
from sslpipe.views.engine import View
from sslpipe.views.recipe import IMAGENET_MEAN, IMAGENET_STD

N, K, C, M, TAU, RATE = 8, 24, 16, 0.9, 0.2, 0.05  # the batch, the queue, and what trains here


def clock(step: int = 0) -> Clock:
    return Clock(step, 0, 0.0, torch.Generator().manual_seed(step))


def build(**changes: Any) -> Any:
    """In float64, so that tolerances are tight."""
    method: Any = small_method("moco", **{"queue": K, "temperature": TAU, **changes}).double().train()
    method.queue.vectors = nn.functional.normalize(
        method.queue.vectors, dim=1
    )  # they were of unit length in float32
    return method


def views(seed: int = 0, n: int = N) -> list[View]:
    """A pair of noise images for each of n."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(2):
        pixels = torch.randn(n, 3, 16, 16, generator=generator, dtype=torch.float64)
        maps = torch.eye(2, 3).expand(n, 2, 3)
        made.append(View(pixels, torch.arange(n), None, maps, IMAGENET_MEAN, IMAGENET_STD, "view"))
    return made


def part(pair: list[View], rows: slice) -> list[View]:
    return [dataclasses.replace(view, pixels=view.pixels[rows]) for view in pair]


def descend(parameters: Any) -> None:
    """A plain step, with the mean gradient of all ranks as DDP gives it."""
    with torch.no_grad():
        for p in parameters:
            p -= RATE * distributed.mean(p.grad)
            p.grad = None


def train(method: Any, step: int) -> float:
    loss = method.step(views(step), clock(step)).loss
    loss.backward()
    descend([p for p in method.parameters() if p.requires_grad])
    method.after_update(clock(step))
    return loss.item()


# --- the official code's order, in plain loops ---


class Official:
    """Algorithm 1 and main_moco.py, one query and one key at a time."""

    def __init__(self, method: Any) -> None:
        self.f_q = copy.deepcopy(nn.Sequential(method.backbone, method.projector))
        self.f_k = copy.deepcopy(self.f_q)
        self.queue = [vector.clone() for vector in method.queue.vectors]
        self.place = 0

    def train(self, step: int) -> float:
        x_q, x_k = (view.pixels for view in views(step))
        q = [v / v.norm() for v in self.f_q(x_q)]
        with torch.no_grad():
            for theta_k, theta_q in zip(self.f_k.parameters(), self.f_q.parameters(), strict=True):
                theta_k.copy_(M * theta_k + (1 - M) * theta_q)
            k = [v / v.norm() for v in self.f_k(x_k)]
        losses = []
        for n in range(N):
            positive = (q[n] @ k[n] / TAU).exp()
            negative = sum((q[n] @ old / TAU).exp() for old in self.queue)
            losses.append(-(positive / (positive + negative)).log())
        loss = sum(losses) / N
        for key in k:
            self.queue[self.place] = key
            self.place = (self.place + 1) % len(self.queue)
        loss.backward()
        descend(self.f_q.parameters())
        return float(loss.detach())


def test_several_steps_are_the_official_codes() -> None:
    method = build()
    official = Official(method)
    for step in range(4):  # the queue of three batches wraps
        assert train(method, step) == pytest.approx(official.train(step), rel=1e-9)
    torch.testing.assert_close(method.queue.vectors, torch.stack(official.queue))
    for ours, theirs in zip(
        nn.Sequential(method.backbone, method.projector).parameters(), official.f_q.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    # The official key encoder moves once more, at the start of the next step.
    for ours, theta_k, theta_q in zip(
        method.key_encoder.parameters(), official.f_k.parameters(), official.f_q.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, M * theta_k + (1 - M) * theta_q)


def test_several_steps_are_lightlys() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightly's own
        losses = pytest.importorskip("lightly.loss", reason="lightly is not installed")
        utils = pytest.importorskip("lightly.models.utils", reason="lightly is not installed")
    method = build()
    f_q = copy.deepcopy(nn.Sequential(method.backbone, method.projector))
    f_k = copy.deepcopy(f_q)
    utils.deactivate_requires_grad(f_k)
    criterion = losses.NTXentLoss(temperature=TAU, memory_bank_size=(K, C)).double()
    criterion.memory_bank.bank.copy_(method.queue.vectors)
    for step in range(4):
        utils.update_momentum(f_q, f_k, m=M)
        x_q, x_k = (view.pixels for view in views(step))
        loss = criterion(f_q(x_q), f_k(x_k))
        loss.backward()
        descend(f_q.parameters())
        assert train(method, step) == pytest.approx(loss.item(), rel=1e-9)
    torch.testing.assert_close(method.queue.vectors, criterion.memory_bank.bank)


def test_the_head_is_lightlys() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightly's own
        heads = pytest.importorskip("lightly.models.modules.heads", reason="lightly is not installed")
    method = build()
    theirs = heads.MoCoProjectionHead(method.backbone.dim, 32, C).double()
    assert [p.shape for p in theirs.parameters()] == [p.shape for p in method.projector.parameters()]
    theirs.load_state_dict(
        dict(zip(theirs.state_dict(), method.projector.state_dict().values(), strict=True))
    )
    h = torch.randn(4, method.backbone.dim, dtype=torch.float64)
    torch.testing.assert_close(method.projector(h), theirs(h))


# --- the momentum encoder ---


def test_the_key_encoder_starts_as_a_copy_of_the_encoder_and_its_head() -> None:
    method = build()
    ours = dict(nn.Sequential(method.backbone, method.projector).named_parameters())
    keys = dict(method.key_encoder.network.named_parameters())
    assert ours.keys() == keys.keys()
    assert any(name.startswith("1.") for name in keys)
    for name, p in keys.items():
        assert torch.equal(p, ours[name])
        assert p.data_ptr() != ours[name].data_ptr()
        assert not p.requires_grad


def test_no_gradient_reaches_keys_or_queue() -> None:
    method = build()
    method.step(views(), clock()).loss.backward()
    assert all(p.grad is None for p in method.key_encoder.parameters())
    assert not method.queue.vectors.requires_grad
    assert all(p.grad is not None for p in method.projector.parameters())


def test_the_key_encoder_runs_in_train_mode_with_statistics_of_its_own() -> None:
    method = build()
    norms = [m for m in method.key_encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    method.step(views(), clock())
    assert norms
    assert all(norm.training and norm.num_batches_tracked == 1 for norm in norms)
    assert not any(torch.equal(old, norm.running_mean) for old, norm in zip(before, norms, strict=True))


# --- the queue ---


def test_logits_are_against_the_queue_as_it_was() -> None:
    # With one batch as the queue, keys that were already in it would be positives and negatives at once.
    method = build(queue=N)
    q, k = (
        nn.functional.normalize(copy.deepcopy(net)(view.pixels), dim=1).detach()
        for net, view in zip(
            (nn.Sequential(method.backbone, method.projector), method.key_encoder), views(), strict=True
        )
    )
    before = method.queue.vectors.clone()
    loss = method.step(views(), clock()).loss
    positive, negative = ((q * k).sum(1) / TAU).exp(), (q @ before.T / TAU).exp().sum(1)
    torch.testing.assert_close(loss.detach(), -(positive / (positive + negative)).log().mean())
    assert torch.equal(method.queue.vectors, before)
    method.after_update(clock())
    torch.testing.assert_close(method.queue.vectors, k)


def test_a_batch_in_two_parts_moves_queue_and_momentum_once() -> None:
    method = build()
    loss = sum(method.step(part(views(), rows), clock()).loss for rows in (slice(4), slice(4, 8)))
    loss.backward()  # nothing that autograd needs was overwritten
    start, online = method.key_encoder.network[1][0].weight.clone(), method.projector[0].weight
    with torch.no_grad():
        online.add_(1.0)
    assert method.queue._seen == 0
    method.after_update(clock())
    assert method.queue._seen == N
    torch.testing.assert_close(method.key_encoder.network[1][0].weight, M * start + (1 - M) * online)


def test_keys_in_the_queue_have_unit_length_also_under_autocast() -> None:
    method = small_method("moco").train()
    pair = [dataclasses.replace(view, pixels=view.pixels.float()) for view in views(n=16)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        method.step(pair, clock())
    method.after_update(clock())
    torch.testing.assert_close(method.queue.vectors.norm(dim=1), torch.ones(16))


def test_the_queue_is_saved_and_restored_where_it_stood() -> None:
    method, other = build(), build(seed=1)
    for step in range(2):
        train(method, step)
    other.load_state_dict(method.state_dict())
    for step in range(2, 5):  # over the end of the ring
        assert train(other, step) == train(method, step)
    assert torch.equal(other.queue.vectors, method.queue.vectors)


def test_a_queue_that_the_batch_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="set the queue to 16 or 32"):
        build().check_batch(16, 1000)


def test_a_queue_of_more_than_a_quarter_of_the_images_is_warned_of() -> None:
    assert build().check_batch(8, 4 * K) == []
    (warning,) = build().check_batch(8, 4 * K - 1)
    assert "a quarter of the 95 images" in warning
    assert warning.endswith("set methods.moco.queue to 16")
    (warning,) = build().check_batch(8, 30)
    assert warning.endswith("train on more images or smaller batches")


# --- versions ---


def test_defaults_are_the_papers_of_each_version() -> None:
    for values, expected in (({}, (0.2, 2048, "cosine")), ({"version": 1}, (0.07, 0, "steps"))):
        for config in (methods.configure("moco", values), methods.find("moco").Config(**values)):
            assert (config.temperature, config.projector_hidden, config.optimizer.schedule) == expected
            assert (config.queue, config.momentum, config.projector_out) == (65536, 0.999, 128)
            sgd = config.optimizer
            assert (sgd.name, sgd.peak(256), sgd.weight_decay, sgd.momentum) == ("sgd", 0.03, 1e-4, 0.9)


def test_given_values_win_over_a_versions() -> None:
    given = {"version": 1, "temperature": 0.1, "projector_hidden": 8, "optimizer": {"rate": 0.1}}
    config = methods.configure("moco", given)
    assert (config.temperature, config.projector_hidden) == (0.1, 8)
    assert (config.optimizer.rate, config.optimizer.schedule, config.optimizer.name) == (0.1, "steps", "sgd")
    cosine = methods.configure("moco", {"version": 1, "optimizer": {"schedule": "cosine"}})
    assert (cosine.optimizer.schedule, cosine.temperature) == ("cosine", 0.07)
    adamw = OptimizerConfig(name="adamw")
    config = methods.find("moco").Config(version=1, temperature=0.2, optimizer=adamw)
    assert (config.temperature, config.optimizer) == (0.2, adamw)


def test_rates_fall_as_in_the_official_scripts() -> None:
    steps, cosine = (methods.configure("moco", {"version": v}).optimizer for v in (1, 2))
    assert [rate_factor(steps, epoch, 200) for epoch in (0, 119.9, 120, 159.9, 160, 200)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert [rate_factor(cosine, epoch, 200) for epoch in (0, 100, 200)] == pytest.approx([1, 0.5, 0])


def test_heads_are_linear_in_version_1_and_have_no_batch_norm_in_version_2() -> None:
    backbone = networks.backbone("small_resnet", image_size=16, width=8, stages=3)
    first = methods.build("moco", backbone, {"version": 1, "queue": 16})
    assert [type(layer) for layer in first.projector] == [nn.Linear]
    assert first.projector[0].weight.shape == (128, backbone.dim)
    second = methods.build("moco", backbone, {"queue": 16})
    assert [type(layer) for layer in second.projector] == [nn.Linear, nn.ReLU, nn.Linear]
    assert second.projector[0].weight.shape == (2048, backbone.dim)
    assert all(
        layer.bias is not None for layer in (*first.projector, second.projector[0], second.projector[2])
    )


def test_views_are_the_versions() -> None:
    (second,) = methods.recipe("moco", 224).views
    assert (second.count, second.blur, second.grey, second.jitter.hue) == (2, 0.5, 0.2, 0.1)
    (first,) = methods.recipe("moco", 224, config={"version": 1}).views
    assert (first.count, first.blur, first.jitter.hue, first.jitter.probability) == (2, 0.0, 0.4, 1.0)
    assert first.order[:3] == ("crop", "grey", "jitter")


@pytest.mark.parametrize("name", ["small_resnet", "small_vit", "timm:test_efficientnet"])
def test_it_trains_resnets_cnns_and_vits(name: str) -> None:
    options = {"width": 32, "depth": 2, "heads": 2} if name == "small_vit" else {}
    backbone = networks.backbone(name, image_size=32, **options)
    recipe = methods.recipe("moco", 32, patch_size=backbone.patch_size)
    method = methods.build("moco", backbone, {"queue": 16}).train()
    loss = method.step(ViewEngine(recipe, seed=0)(ToyReader(resolution=32).gather(range(8)), 0), clock()).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


# --- what is watched ---


def test_numbers_tell_collapse_from_learning() -> None:
    method = build()
    pair = views()
    same = [pair[0], pair[0]]  # query and key encoder are still equal
    assert method.step(same, clock()).numbers == {
        "accuracy": torch.tensor(1.0),
        "positive_similarity": pytest.approx(1),
    }
    with torch.no_grad():
        for head in (method.projector, method.key_encoder.network[1]):
            head[-1].weight.zero_()
    method.step(pair, clock())
    for _ in range(K // N):
        method.step(pair, clock())
        method.after_update(clock())
    numbers = method.step(pair, clock()).numbers
    assert (numbers["accuracy"], numbers["positive_similarity"]) == (0, pytest.approx(1))


# --- batch norm over several processes ---


def test_batch_norm_is_a_ranks_own_when_shuffled_else_synchronised() -> None:
    ours = distributed.BatchNorm2d
    for shuffle in (True, False):
        method = build(shuffle=shuffle)
        for network in (method.backbone, method.key_encoder):
            norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
            assert norms
            assert all(isinstance(norm, ours) != shuffle for norm in norms)


def test_in_one_process_shuffling_changes_nothing() -> None:
    one, other = build(shuffle=True), build(shuffle=False)
    assert train(one, 0) == train(other, 0)
    assert torch.equal(one.queue.vectors, other.queue.vectors)


WORLD, STEPS = 2, 4


def trained() -> dict[str, Tensor]:
    """Four steps of this rank's share of the images; what they come to."""
    method = build()
    found = {}
    for step in range(STEPS):
        size = N // distributed.world_size()
        mine = part(views(step), slice(size * distributed.rank(), size * (distributed.rank() + 1)))
        loss = method.step(mine, clock(step)).loss
        loss.backward()
        descend([p for p in method.parameters() if p.requires_grad])
        method.after_update(clock(step))
        found[f"loss/{step}"] = distributed.mean(loss)
    found |= {f"parameter/{name}": p.detach() for name, p in method.named_parameters()}
    return found | {"queue": method.queue.vectors}


def expected() -> dict[str, Tensor]:
    """The same in one process: batch norm sees half of the queries, or a random half of the keys."""
    method = build()
    network = nn.Sequential(method.backbone, method.projector)
    found = {}
    for step in range(STEPS):
        x_q, x_k = (view.pixels for view in views(step))
        order = torch.randperm(N, generator=clock(step).generator).tolist()
        k = torch.zeros(N, C, dtype=torch.float64)
        for rank in range(WORLD):
            rows = order[rank * N // WORLD : (rank + 1) * N // WORLD]
            k[rows] = nn.functional.normalize(method.key_encoder(x_k[rows]), dim=1)
        q = nn.functional.normalize(torch.cat([network(x) for x in x_q.chunk(WORLD)]), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ method.queue.vectors.T], dim=1) / TAU
        loss = (logits.logsumexp(1) - logits[:, 0]).mean()
        loss.backward()
        descend([p for p in method.parameters() if p.requires_grad])
        method.key_encoder.update(network, M)
        method.queue.vectors[step * N % K : step * N % K + N] = k
        found[f"loss/{step}"] = loss.detach()
    found |= {f"parameter/{name}": p.detach() for name, p in method.named_parameters()}
    return found | {"queue": method.queue.vectors}


def main(rank: int, store: str, output: str) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    save_file({name: value.contiguous() for name, value in trained().items()}, output)
    dist.barrier()
    dist.destroy_process_group()


def test_batch_norm_is_shuffled_over_two_processes(tmp_path: Any) -> None:
    # Without shuffling they are one process of twice the images: see test_two_processes.py.
    outputs = [tmp_path / f"{rank}.safetensors" for rank in range(WORLD)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path / "store"), str(output)], env=environment
        )
        for rank, output in enumerate(outputs)
    ]
    try:
        alone = expected()
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    for output in outputs:
        both = load_file(output)
        assert both.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(
                both[name], value, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
