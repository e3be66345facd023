"""The monitor looks at the encoder's features between epochs: do they tell images apart, or have they collapsed?

The loss of a self-supervised method says little about its features, and where they collapse it looks its best. So a
fixed sample of the training split is embedded as evaluations do it, and judged without training anything.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from sslpipe.console.errors import UserError
from sslpipe.core.distributed import mean, rank
from sslpipe.data.loader import Reader
from sslpipe.measures.geometry import effective_rank, spread
from sslpipe.measures.knn import knn
from sslpipe.methods.base.method import Method
from sslpipe.methods.base.monitor import alike
from sslpipe.training.core import parallel
from sslpipe.training.core.config import Config
from sslpipe.training.core.state import RunState
from sslpipe.views.preprocess import Preprocess

SAMPLE = 1024  # images that are looked at
BATCH = 128  # of them at a time
K, TEMPERATURE = 20, 0.07  # of the k-NN, as in the defaults of the stage `knn`

COLUMNS = ("step", "epoch", "knn_top1", "rankme", "feature_std")  # of the table, besides the methods' own

Row = dict[str, float]


class CollapseError(UserError):
    """The features of all images have become alike, and the run was to stop then."""


class Monitor:
    """Looks at a method between epochs, and leaves it as it was.

    Its `reader` is that of the training split: the test split is never looked at. `on_log` is called with each new row.
    """

    def __init__(
        self,
        method: Method,
        reader: Reader,
        preprocess: Preprocess,
        config: Config,
        *,
        seed: int,
        on_log: Callable[[Row], None] = lambda row: None,
    ) -> None:
        self.method, self.reader, self.preprocess, self.config = method, reader, preprocess, config
        self.on_log = on_log
        self.indices = sample(len(reader), seed)

    def on_epoch(self, state: RunState, epoch: int) -> None:
        """Look if it is time to; of several processes only the first one does, unless they share tensors out.

        What is seen after so many epochs (at 0 the weights are random) is added to the state's `history.looks`; a look
        that is there already, because the run was stopped after it, is not taken again.

        Raises:
            CollapseError: features have, and `stop_on_collapse` asks to stop; a checkpoint is made before.
        """
        every = self.config.monitor_epochs
        if every == 0 or (epoch % every and epoch < self.config.epochs):
            return
        look = functools.partial(self._look_once, epoch, state.step, state.history.looks)
        trained = state.training_step.trained
        reason: str | None = None
        if isinstance(trained, parallel.Parallel) and trained.give_back is not None:
            reason = trained.together(look)
        elif rank() == 0:
            reason = look()
        if self.config.stop_on_collapse and self._on_any_rank(reason is not None):
            state.save()
            raise CollapseError(
                f"stopped at epoch {epoch}, {reason or 'the features have collapsed'}: change what is at fault, or set "
                "pretrain.stop_on_collapse to false to go on from here"
            )

    def last(self, looks: Sequence[Row]) -> Row:
        """The numbers of the last look as far as they are finite, and `collapsed`, 1 or 0; nothing without a look."""
        if not looks:
            return {}
        numbers = {k: v for k, v in looks[-1].items() if k not in ("step", "epoch") and math.isfinite(v)}
        return {**numbers, "collapsed": float(self._collapsed(looks) is not None)}

    def _look_once(self, epoch: int, step: int, looks: list[Row]) -> str | None:
        """Look, unless that has been done; what has collapsed and what to check, if anything."""
        known = bool(looks) and looks[-1]["epoch"] >= epoch
        if not known:
            looks.append({"step": step, "epoch": epoch, **self.look()})
            self.on_log(looks[-1])
        what = self._collapsed(looks)
        if what is None:
            return None
        reason = f"{what}: {self.method.suspects}"
        if not known:
            print(f"pretrain: collapse at epoch {epoch}, {reason}", flush=True)
        return reason

    def _collapsed(self, looks: Sequence[Row]) -> str | None:
        return alike(looks) or self.method.collapsed(looks)

    def _on_any_rank(self, flag: bool) -> bool:
        """Whether it is so on any rank: all stop together, or those that go on would wait for the one that did not."""
        device = next(self.method.parameters()).device
        return bool(mean(torch.tensor(float(flag), device=device)) > 0)

    def look(self) -> Row:
        """The numbers of the features, and those the method has of its own; NaN where features are not finite."""
        with unnoticed(self.method):
            features: list[Tensor] = []
            source = self._batches(features)
            own = self.method.monitor(source)
            for _ in source:  # what the method did not ask for
                pass
            row = judged(torch.cat(features), self.reader.labels[self.indices])
            return row | {name: float(value) for name, value in own.items()}

    def _batches(self, features: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images [n, 3, S, S] and the encoder's features of them [n, D], which are also kept."""
        encoder = self.method.encoder.eval()
        device = next(self.method.parameters()).device
        for part in self.indices.split(BATCH):
            x = self.preprocess.view(self.reader.gather(part).to(device))
            h = encoder(x)
            features.append(h.float().cpu())
            yield x, h


def sample(images: int, seed: int) -> Tensor:
    """At most `SAMPLE` indices into a split, the same for the same seed, in order: int64 [M]."""
    drawn = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    return drawn[:SAMPLE].sort().values


def judged(features: Tensor, labels: Tensor) -> Row:
    """What can be said of features [M, D] and their labels, int64 [M], -1 for none.

    Returns:
        `knn_top1` (where there are labels): how many of one half get the right class from the other half, drawn at
        random and the same ones each time. `rankme`: the features' effective rank. `feature_std`: the deviation of
        each of the normalised features, times √D.
    """
    if not torch.isfinite(features).all():
        return {"rankme": math.nan, "feature_std": math.nan}
    row = {"rankme": float(effective_rank(features)), "feature_std": float(spread(features))}
    known = (labels >= 0).nonzero()[:, 0]
    known = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))]
    bank, queries = known.tensor_split(2)
    if len(queries):
        halves = (features[bank], labels[bank], features[queries], labels[queries])
        row = {"knn_top1": knn(*halves, k=K, temperature=TEMPERATURE)["top1"], **row}
    return row


@contextlib.contextmanager
def unnoticed(method: Method) -> Iterator[None]:
    """Eval mode in full precision, after which modes and random state are as they were."""
    modes = [(module, module.training) for module in method.modules()]
    device = next(method.parameters()).device
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.autocast(device.type, enabled=False), torch.no_grad():
            method.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
