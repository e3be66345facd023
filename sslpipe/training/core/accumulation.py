"""The gradient of a batch that is too large to go through a network at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.core.device import autocast
from sslpipe.methods.base.method import Clock, Method, Step
from sslpipe.training.core import parallel
from sslpipe.training.core.config import Config
from sslpipe.training.core.parallel import Parallel, Trained
from sslpipe.training.core.phases import BACKWARD, FORWARD, Phase, untimed
from sslpipe.views.view import View


def backward(
    method: Trained, views: Sequence[View], clock: Clock, config: Config, phase: Phase = untimed
) -> Step:
    """Add a batch's gradient to the parameters', in `config.accumulate` parts; returns its loss and numbers.

    Several processes average their gradients while the last part's are computed.

    Plain accumulation averages the parts' losses: batch norm, and the negatives of a contrastive loss, are those of
    a part. With `gradient_cache` the loss is that of the whole batch: all parts are embedded without a graph, the loss
    gives the gradient of every embedding, and each part is embedded again to pass its gradient on (Gao et al.,
    "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021, arXiv:2101.06983).
    """
    if config.gradient_cache:
        return _cached(method, views, clock, config, phase)
    device, steps = views[0].pixels.device, list[Step]()
    for part in _parts(views, config.accumulate):
        with parallel.held(method, more=len(steps) + 1 < config.accumulate):
            with phase(FORWARD), autocast(device, config.precision):
                outcome = method.step(part, clock)
            with phase(BACKWARD):
                (outcome.loss / config.accumulate).backward()
        steps.append(outcome)
    return _average(steps)


def check(method: Method, config: Config) -> None:
    """Refuse parts that a batch cannot be trained in.

    Raises:
        UserError: the batch is not a multiple of the parts, they would overwrite each other, or the method has no
            embeddings to keep.
    """
    if config.batch_size % config.accumulate or config.batch_size // config.accumulate < 2:
        raise UserError(
            f"pretrain.accumulate is {config.accumulate}, which does not divide the batch of {config.batch_size} into "
            "equal parts of two images or more"
        )
    if config.compile == "graphs" and (config.accumulate > 1 or config.gradient_cache):
        raise UserError(
            "pretrain.compile is graphs, whose next pass writes over what the parts of a batch must keep: set it to "
            "always, or pretrain.accumulate to 1 and pretrain.gradient_cache to false"
        )
    if config.gradient_cache and type(method).embed is Method.embed:
        raise UserError(
            f"{type(method).__name__} has no loss over embeddings of the whole batch: set pretrain.gradient_cache to "
            "false"
        )


def _parts(views: Sequence[View], count: int) -> list[list[View]]:
    if count == 1:
        return [list(views)]
    size = len(views[0].index) // count
    return [[view[k * size : (k + 1) * size] for view in views] for k in range(count)]


def _average(steps: Sequence[Step]) -> Step:
    def mean(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([torch.as_tensor(value).detach().float() for value in values]).mean(dim=0)

    if len(steps) == 1:
        return replace(steps[0], loss=steps[0].loss.detach())
    numbers = {name: mean([step.numbers[name] for step in steps]) for name in steps[0].numbers}
    return Step(mean([step.loss for step in steps]), numbers)


def _cached(method: Trained, views: Sequence[View], clock: Clock, config: Config, phase: Phase) -> Step:
    parts, device, precision = _parts(views, config.accumulate), views[0].pixels.device, config.precision
    seeds = torch.randint(2**62, (len(parts),)).tolist()  # so that dropout is the same both times
    embedded: list[tuple[Tensor, ...]] = []
    with torch.no_grad(), _unnoticed(method.method if isinstance(method, Parallel) else method):
        for part, seed in zip(parts, seeds, strict=True):
            torch.manual_seed(seed)
            with phase(FORWARD), autocast(device, precision):
                embedded.append(method.embed(part))
    leaves = [torch.cat(tensors).requires_grad_() for tensors in zip(*embedded, strict=True)]  # [N, D] each
    with phase(FORWARD), autocast(device, precision):
        outcome = method.loss(tuple(leaves), clock)
    with phase(BACKWARD):
        outcome.loss.backward()
    # No gradient reaches what a momentum network embeds (MoCo v3's keys).
    gradients = [None if leaf.grad is None else leaf.grad.chunk(len(parts)) for leaf in leaves]
    for k, (part, seed) in enumerate(zip(parts, seeds, strict=True)):
        torch.manual_seed(seed)
        with parallel.held(method, more=k + 1 < len(parts)):
            with phase(FORWARD), autocast(device, precision):
                again = method.embed(part)
            pairs = [(z, g[k].to(z.dtype)) for z, g in zip(again, gradients, strict=True) if g is not None]
            with phase(BACKWARD):
                torch.autograd.backward([z for z, _ in pairs], [gradient for _, gradient in pairs])
    return replace(outcome, loss=outcome.loss.detach())


@contextmanager
def _unnoticed(module: nn.Module) -> Iterator[None]:
    """Forward passes that leave no trace in running statistics: the same images come again."""
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in module.named_buffers():
            buffer.copy_(kept[name])
