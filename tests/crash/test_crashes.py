"""Whatever is killed, cut or refused, and whenever: the next run goes on and ends with the same bytes.

`SSLPIPE_CRASHES` is how many trials there are, 75 unless told otherwise; `make crash` makes it 1 000. A trial is drawn
from its number, so that one that fails can be had again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from children import BROKE, DISEASES, FINISHED, SAID_WHY, Sabotage
from PIL import Image
from safetensors.torch import save
from support import ToyReader, small_engine, small_method

from sslpipe.core import scratch
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.data.loader import Loader
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Clock
from sslpipe.sharding.shard import Config as ShardConfig
from sslpipe.sharding.shard import shard
from sslpipe.sharding.sources import Config as SourceConfig
from sslpipe.sharding.sources import open_source
from sslpipe.training.core.config import Config
from sslpipe.training.core.loop import train

pytestmark = pytest.mark.slow

CLOCK = Clock(0, 0, 0.0, torch.Generator())
TRIALS = int(os.environ.get("SSLPIPE_CRASHES", "75"))
METHODS = ("moco", "byol", "swav", "mae")  # a queue, a momentum network, prototypes, masks
SAVES = 6  # one a step
#: Calls that change the disk in a training of so many saves: a few more than there are, so that some trials finish.
CALLS_OF_TRAINING, CALLS_OF_SHARDING = 34, 60


def shares() -> dict[str, int]:
    """How many trials each kind of crash gets."""
    parts = {
        "killed at a moment": 3,
        "killed at a call": 4,
        "refused by the disk": 4,
        "cut": 2,
        "sharding": 2,
    }
    return {name: -(-TRIALS * part // sum(parts.values())) for name, part in parts.items()}


class Training:
    """A toy training in a folder of its own, and the bytes that it must end with."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        folder.mkdir(parents=True)
        self.result, self.log = folder / "weights.safetensors", folder / "log.txt"

    def __call__(self) -> None:
        """Train to the end and leave the weights."""
        goes_on = Checkpoints(self.folder / "run").load() is not None
        method = small_method(self.name, seed=9 if goes_on else 0)  # then its first weights must not matter
        config = Config(epochs=SAVES // 2, batch_size=16, log_every=2, checkpoint_seconds=0)
        optimizer = OptimizerConfig(lr=3e-3, rule="absolute", warmup_epochs=0.5)
        train(
            method, Loader(ToyReader(), batch_size=16, seed=0), small_engine(self.name), config, optimizer, seed=0,
            checkpoints=Checkpoints(self.folder / "run"),
        )  # fmt: skip
        state = {k: v.contiguous() for k, v in method.state_dict().items() if isinstance(v, torch.Tensor)}
        scratch.atomic_write(self.result, save(state))

    def finish(self) -> bytes:
        """Go on undisturbed to the end."""
        assert children.run(self, self.log) == FINISHED, self.log.read_text()
        return self.result.read_bytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What each method ends with when nothing happens."""
    for name in METHODS:  # here, once: what is slow to import and to compile, which every child then has
        small_method(name).step(small_engine(name)(ToyReader().gather(range(4)), 0), CLOCK).loss.backward()
    folder = tmp_path_factory.mktemp("undisturbed")
    return {name: Training(name, folder / name).finish() for name in METHODS}


def trials(kind: str) -> Iterator[tuple[int, random.Random]]:
    """The numbers of this kind's trials, and what each draws from."""
    for number in range(shares()[kind]):
        yield number, random.Random(f"{kind} {number}")


def test_killed_at_any_moment(expected: dict[str, bytes], tmp_path: Path) -> None:
    for number, draw in trials("killed at a moment"):
        name = METHODS[number % len(METHODS)]
        training = Training(name, tmp_path / str(number))
        for _ in range(draw.choice((1, 1, 2))):
            children.run(training, training.log, kill_after=draw.uniform(0, 0.5))
        assert training.finish() == expected[name], (number, training.log.read_text())


def test_killed_at_any_call(expected: dict[str, bytes], tmp_path: Path) -> None:
    killed = 0
    for number, draw in trials("killed at a call"):
        name = METHODS[number % len(METHODS)]
        training = Training(name, tmp_path / str(number))
        sabotage = Sabotage(draw.randrange(1, CALLS_OF_TRAINING), None, number)
        ended = children.run(training, training.log, sabotage)
        assert ended in (-9, FINISHED), (number, training.log.read_text())
        killed += ended == -9
        assert training.finish() == expected[name], (number, training.log.read_text())
    assert killed > shares()["killed at a call"] // 2  # it does strike


def test_refused_by_the_disk_at_any_call(expected: dict[str, bytes], tmp_path: Path) -> None:
    refused = 0
    for number, draw in trials("refused by the disk"):
        name = METHODS[number % len(METHODS)]
        training = Training(name, tmp_path / str(number))
        sabotage = Sabotage(draw.randrange(1, CALLS_OF_TRAINING), draw.choice(DISEASES), number)
        ended = children.run(training, training.log, sabotage)
        assert ended in (SAID_WHY, FINISHED), (number, training.log.read_text())  # a sentence, no traceback
        refused += ended == SAID_WHY
        assert training.finish() == expected[name], (number, training.log.read_text())
    assert refused > shares()["refused by the disk"] // 2


def test_a_checkpoint_cut_or_changed_anywhere(expected: dict[str, bytes], tmp_path: Path) -> None:
    for number, draw in trials("cut"):
        name = METHODS[number % len(METHODS)]
        training = Training(name, tmp_path / str(number))
        sabotage = Sabotage(draw.randrange(12, CALLS_OF_TRAINING - 8), None, number)
        children.run(training, training.log, sabotage)
        files = sorted((training.folder / "run").glob("*.safetensors"))
        for file in files[-draw.choice((1, 1, 2)) :]:  # the newest, or all there are
            damage(file, draw)
        assert training.finish() == expected[name], (number, training.log.read_text())
        if files:
            assert "is damaged" in training.log.read_text()


def damage(file: Path, draw: random.Random) -> None:
    """Cut a file short, flip a bit, or fill its end with zeros, as a lost page would."""
    content = bytearray(file.read_bytes())
    place = draw.randrange(len(content))
    kind = draw.choice(("cut", "flip", "zeros"))
    if kind == "cut":
        del content[place:]
    elif kind == "flip":
        content[place] ^= 1 << draw.randrange(8)
    else:
        content[place:] = bytes([255 - content[place]]) + bytes(len(content) - place - 1)
    file.write_bytes(content)


def test_sharding_killed_or_refused_at_any_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "images"
    for place in range(12):
        path = images / f"class{place % 2}" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(place).integers(0, 256, (9, 11, 3), np.uint8)).save(path)

    def sharding(folder: Path) -> Callable[[], None]:
        def work() -> None:
            os.chdir(folder)
            os.environ["DVC_ROOT"] = str(folder)
            source = open_source(SourceConfig(source="folder", root=str(images)), 0)
            shard(ShardConfig(resolution=8, shard_size=4, workers=1), source, Path("shards"), 0)

        folder.mkdir()
        return work

    def shards(folder: Path) -> dict[str, bytes]:
        found = sorted(path for path in (folder / "shards").rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}

    whole = tmp_path / "whole"
    assert children.run(sharding(whole), tmp_path / "log.txt") == FINISHED, (tmp_path / "log.txt").read_text()
    expected = shards(whole)
    assert len(expected) > 3
    struck = 0
    for number, draw in trials("sharding"):
        folder, log = tmp_path / str(number), tmp_path / f"{number}.txt"
        work = sharding(folder)
        error = draw.choice((None, None, *DISEASES))
        ended = children.run(work, log, Sabotage(draw.randrange(1, CALLS_OF_SHARDING), error, number))
        assert ended in ((-9, FINISHED) if error is None else (SAID_WHY, FINISHED)), (number, log.read_text())
        struck += ended != FINISHED
        if ended != FINISHED:
            assert not (folder / "shards" / "manifest.json").exists() or shards(folder) == expected
        assert children.run(work, log) == FINISHED, (number, log.read_text())
        assert shards(folder) == expected, number
    assert struck > shares()["sharding"] // 2


def test_there_are_as_many_trials_as_asked_for() -> None:
    assert sum(shares().values()) >= TRIALS
    assert BROKE not in (FINISHED, SAID_WHY)
