"""What a run does on a GPU beside its steps: the tokenizer, looks at the features, pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pretended import Gpu
from support import SIZE, ToyReader, preprocess, small_engine, small_method

from sslpipe import methods
from sslpipe.methods.base.method import Preparation
from sslpipe.training.core.config import Config
from sslpipe.training.core.monitor import Monitor
from sslpipe.views.engine import ViewEngine


@pytest.mark.parametrize("name", methods.names())
def test_preparing_looking_and_drawing(name: str, gpu: Gpu, tmp_path: Path) -> None:
    method, recipe, reader = small_method(name).to("cuda"), small_engine(name).recipe, ToyReader(32)
    device = torch.device("cuda")
    method.prepare(Preparation(reader, recipe, device, 0, lambda key: tmp_path / key))
    assert gpu.streams_made.total() == (1 if name == "beit" else 0)
    numbers = Monitor(method, reader, preprocess(SIZE), Config(), seed=0).look()
    assert "rankme" in numbers
    method.eval()
    engine = ViewEngine(recipe, seed=0, device=device)
    for _, picture in method.pictures(engine(reader.gather(range(16)).to(device), 0)):
        assert picture.numpy().ndim == 3
    assert gpu.of("race", "pageable") == []


def test_a_tokenizer_waits_only_to_put_words_elsewhere(gpu: Gpu, tmp_path: Path) -> None:
    method, recipe = small_method("beit").to("cuda"), small_engine("beit").recipe
    gpu.notes.clear()
    method.prepare(Preparation(ToyReader(48), recipe, torch.device("cuda"), 0, lambda key: tmp_path / key))
    often = [note for note, count in gpu.notes.items() if note.kind == "wait" and count >= 3]  # of six steps
    set_up_or_rare = (" trained ", "_restart", "checkpoint.py")
    assert [str(note) for note in often if not any(known in note.where for known in set_up_or_rare)] == []
