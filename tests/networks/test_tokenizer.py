from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sslpipe.console.errors import UserError
from sslpipe.networks import tokenizer as module
from sslpipe.networks.tokenizer import Averages, Tokenizer, TokenizerConfig, perplexity, trained

CONFIG = TokenizerConfig(words=12, dim=8, width=12, epochs=3, batch_size=16, lr=5e-3)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def images(epoch: int) -> Iterator[torch.Tensor]:
    """Four batches of pictures in which each square of 2 pixels has one of six colours, and a little noise."""
    generator = torch.Generator().manual_seed(epoch)
    colours = torch.tensor(
        [[-1, -1, -1], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]]
    ).float()
    for _ in range(4):
        squares = colours[torch.randint(6, (16, 4, 4), generator=generator)].permute(0, 3, 1, 2)
        large = F.interpolate(squares, scale_factor=2)
        yield large + 0.05 * torch.randn(large.shape, generator=generator)


def fit(folder: Path, **changes: Any) -> Tokenizer:
    config = CONFIG.model_copy(update={"epochs": changes.pop("epochs", CONFIG.epochs)})
    folder.mkdir(exist_ok=True)
    settings: dict[str, Any] = {"batches": images, "seed": 0} | changes
    return trained(config, 2, steps=4, device=CPU, folder=folder, **settings)


def same(a: Tokenizer, b: Tokenizer) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("pixels", [1, 2, 3, 4, 6, 7, 8])
def test_a_word_for_each_square_and_back(pixels: int) -> None:
    tokenizer = Tokenizer(CONFIG, pixels)
    x = torch.randn(2, 3, 3 * pixels, 2 * pixels)
    words = tokenizer.words(x)
    assert (words.shape, words.dtype) == ((2, 6), torch.int64)
    assert 0 <= int(words.min()) <= int(words.max()) < CONFIG.words
    assert tokenizer.decode(words, (3, 2)).shape == x.shape
    rebuilt, z, again = tokenizer(x)
    assert torch.equal(again, words)
    torch.testing.assert_close(rebuilt, tokenizer.decode(words, (3, 2)))
    torch.testing.assert_close(z.norm(dim=2), torch.ones(2, 6))


def test_words_are_row_by_row() -> None:
    tokenizer = Tokenizer(CONFIG, 2)
    x = torch.zeros(1, 3, 16, 16)
    changed = x.clone()
    changed[:, :, 8:10, 2:4] = 3.0  # row 4, column 1
    moved = (tokenizer.encode(x) - tokenizer.encode(changed)).norm(dim=2).view(8, 8) > 0
    rows, columns = (moved.any(dim=dim).nonzero()[:, 0].tolist() for dim in (1, 0))
    assert rows == [1, 2, 3, 4, 5, 6, 7]  # a word sees three neighbours each way
    assert columns == [0, 1, 2, 3, 4]


def test_the_nearest_code_in_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 4)  # several chunks
    tokenizer = Tokenizer(CONFIG, 2).double()
    z = F.normalize(torch.randn(2, 5, 8, dtype=torch.float64), dim=2)
    for n in range(2):
        for patch in range(5):
            distances = [float(((z[n, patch] - code) ** 2).sum()) for code in tokenizer.codes]
            assert tokenizer.nearest(z)[n, patch] == distances.index(min(distances))


def test_autocast_does_not_change_a_word() -> None:
    tokenizer, x = Tokenizer(CONFIG, 2), torch.randn(4, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        words = tokenizer.words(x)
    assert torch.equal(words, tokenizer.words(x))


def test_the_gradient_goes_past_the_quantiser() -> None:
    tokenizer, x = Tokenizer(CONFIG, 2), torch.randn(2, 3, 8, 8)
    rebuilt, _, _ = tokenizer(x)
    F.mse_loss(rebuilt, x).backward()
    assert all(p.grad is not None and p.grad.any() for p in tokenizer.parameters())


def test_codes_are_the_directions_of_running_means() -> None:
    tokenizer = Tokenizer(CONFIG, 2)
    averages = Averages(tokenizer, decay=0.8)
    start = tokenizer.codes.clone()
    sums, counts = torch.zeros(12, 8, dtype=torch.float64), torch.zeros(12, dtype=torch.float64)
    for _ in range(3):
        z = F.normalize(torch.randn(2, 5, 8), dim=2)
        words = torch.randint(6, (2, 5))  # words 6 to 11 are never used
        averages.update(z, words, restart=False)
        sums, counts = 0.8 * sums, 0.8 * counts
        for vector, word in zip(z.flatten(0, 1).double(), words.flatten().tolist(), strict=True):
            sums[word] += 0.2 * vector
            counts[word] += 0.2
    for word in range(12):
        expected = sums[word] / sums[word].norm() if counts[word] else start[word].double()
        torch.testing.assert_close(tokenizer.codes[word].double(), expected, rtol=1e-5, atol=1e-6)


def test_words_that_are_hardly_used_go_where_error_is_large() -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(CONFIG, 2)
    averages = Averages(tokenizer, decay=0.5)
    common = F.normalize(torch.randn(8), dim=0)
    tokenizer.codes[0] = common
    rare = -common
    z = torch.stack([common] * 95 + [rare] * 5)[None]  # [1, 100, 8]
    averages.update(z, tokenizer.nearest(z), restart=True)
    torch.testing.assert_close(tokenizer.codes[0], common)
    at_rare = (tokenizer.codes @ rare > 1 - 1e-5).sum()
    assert at_rare >= 10  # of 12: what is common is described already


def test_it_learns_words_that_rebuild_the_image_and_uses_them(tmp_path: Path) -> None:
    tokenizer = fit(tmp_path, epochs=40)
    x = next(images(99))
    words = tokenizer.words(x)
    rebuilt = tokenizer.decode(words, (4, 4))
    assert F.mse_loss(rebuilt, x) < 0.5 * x.var()  # a single word would leave all of it
    assert perplexity(torch.bincount(words.flatten(), minlength=12)) > 6


def test_the_seed_decides_and_nothing_else_does(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one = fit(tmp_path / "a")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(one, fit(tmp_path / "b"))
    assert not same(one, fit(tmp_path / "c", seed=1))


def test_it_is_trained_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = fit(tmp_path)
    assert "words in use" in capsys.readouterr().out

    def nothing(epoch: int) -> Iterator[torch.Tensor]:
        raise AssertionError("trained again")

    assert same(one, fit(tmp_path, batches=nothing))
    assert "trained before" in capsys.readouterr().out


def test_interrupted_it_goes_on_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def killed(epoch: int) -> Iterator[torch.Tensor]:
        for number, batch in enumerate(images(epoch)):
            if epoch == 2 and number == 1:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", batches=killed)
    again = fit(tmp_path / "a")
    assert "continuing after epoch 2" in capsys.readouterr().out
    assert same(again, fit(tmp_path / "b"))


def test_a_damaged_state_is_named_and_that_before_it_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = fit(tmp_path)
    newest = max(tmp_path.glob("*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1
    newest.write_bytes(content)
    assert same(one, fit(tmp_path))
    said = capsys.readouterr()
    assert f"{newest.name} is damaged" in said.err
    assert "continuing after epoch" in said.out
    newest.write_bytes(newest.read_bytes()[:-9])
    assert same(one, fit(tmp_path))


def test_an_error_that_is_not_finite_is_said(tmp_path: Path) -> None:
    def broken(epoch: int) -> Iterator[torch.Tensor]:
        for batch in images(epoch):
            yield batch * float("nan")

    with pytest.raises(
        UserError, match=r"the tokenizer's error became nan: lower the tokenizer's lr, now 0\.005"
    ):
        fit(tmp_path, batches=broken)


def test_perplexity_counts_words_as_if_used_alike() -> None:
    assert perplexity(torch.tensor([5, 5, 5, 0])).item() == pytest.approx(3)
    assert perplexity(torch.tensor([7, 0, 0])).item() == pytest.approx(1)
