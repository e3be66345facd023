"""k-nearest-neighbour classification on frozen features.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, Sec. 3.4: cosine
similarity, each of the k nearest votes for its class with weight exp(similarity / T).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sslpipe.console.errors import UserError
from sslpipe.core.device import to_device
from sslpipe.measures.subsets import folds

QUERIES, BANK = 1024, 32_768  # features compared at a time: 128 MB of similarities
HELD_BACK = 5  # one in so many training images asks the others, where k and T are chosen


def nearest(
    train_features: Tensor,
    test_features: Tensor,
    k: int,
    *,
    device: torch.device | str = "cpu",
    itself: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k most similar training images of each test image, exactly: of features [N, D] and [M, D], k at most N.

    Bank and queries are compared part by part: of a bank of a million images only `BANK` are on the device at a time.
    With `itself`, the index of each test image in the training set, int64 [M], none is its own neighbour, and k is
    at most N - 1.

    Returns:
        cosine similarities [M, k], falling, and int64 indices into the training set [M, k]; on the CPU.
    """
    device = torch.device(device)
    chunks = normalize(test_features.float(), dim=1).split(QUERIES)  # [m, D] each
    best: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(train_features), BANK):
        bank = normalize(to_device(train_features[start : start + BANK], device).float(), dim=1)  # [n, D]
        for number, chunk in enumerate(chunks):
            similarity = to_device(chunk, device) @ bank.T  # [m, n]
            if itself is not None:
                own = itself[number * QUERIES :][: len(chunk)] - start
                here = ((own >= 0) & (own < len(bank))).nonzero()[:, 0]
                similarity[to_device(here, device), to_device(own[here], device)] = float("-inf")
            top = similarity.topk(min(k, len(bank)), dim=1)  # [m, ≤ k]
            found = top.values.cpu(), top.indices.cpu() + start
            if start == 0:
                best.append(found)
            else:
                best[number] = _best_of(best[number], found, k)
    values, indices = (torch.cat(parts) for parts in zip(*best, strict=True))
    return values, indices


def _best_of(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k most similar of both: similarities and indices, [m, ≤ k] each."""
    values, indices = (torch.cat(pair, dim=1) for pair in zip(one, other, strict=True))
    top = values.topk(min(k, values.shape[1]), dim=1)
    return top.values, indices.gather(1, top.indices)


def vote(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Votes for each class, [M, C], of neighbours' similarities and labels, both [M, k]."""
    # exp(s / T) up to a factor common to all votes of an image, so that a small T cannot overflow.
    weights = ((similarity - similarity[:, :1]) / temperature).exp()  # [M, k]
    votes = weights.new_zeros(len(similarity), classes)
    return votes.scatter_add_(1, labels, weights)


def predict(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, *, k: int, temperature: float
) -> Tensor:
    """Votes for each class, [M, C]; C is counted in the training labels, k is cut to the training set's size."""
    check_bank(train_labels)
    similarity, index = nearest(train_features, test_features, min(k, len(train_features)))
    return vote(similarity, train_labels[index], int(train_labels.max()) + 1, temperature)


def knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int,
    temperature: float,
) -> dict[str, float]:
    """k-NN accuracy of test images that are not in the bank of training images.

    Features are [N, D] and [M, D], normalised inside, labels int64 [N], 0 … C−1, and int64 [M]. Of each test image k
    neighbours vote (N at most), weighing exp(similarity / temperature).

    Returns:
        `top1`, `top5` (with fewer than five classes: of all of them), and the `k` and `temperature` used.

    Raises:
        UserError: the bank is empty or has unlabelled images.
    """
    votes = predict(train_features, train_labels, test_features, k=k, temperature=temperature)
    return {**hits(votes, test_labels), "k": min(k, len(train_features)), "temperature": temperature}


def leave_one_out(features: Tensor, labels: Tensor, *, k: int, temperature: float) -> dict[str, float]:
    """`knn` within one set of images, [N, D] and int64 [N]: each asks all others, never itself.

    Raises:
        UserError: there are fewer than two images, or one without a label.
    """
    check_bank(labels)
    if len(labels) < 2:
        raise UserError("leaving one image out needs at least two")
    k = min(k, len(labels) - 1)
    similarity, index = nearest(features, features, k, itself=torch.arange(len(labels)))
    votes = vote(similarity, labels[index], int(labels.max()) + 1, temperature)
    return {**hits(votes, labels), "k": k, "temperature": temperature}


def check_bank(labels: Tensor) -> None:
    """Raise a UserError where a bank is empty or has images without a label."""
    if len(labels) == 0 or bool((labels < 0).any()):
        raise UserError("k-NN needs at least one training image, and a label of 0 or more for each")


def hits(votes: Tensor, labels: Tensor) -> dict[str, float]:
    """`top1` and `top5` of votes [M, C] for labels [M]."""
    ranked = votes.topk(min(5, votes.shape[1]), dim=1).indices  # [M, 5]
    right = (ranked == labels[:, None]).double()
    return {"top1": right[:, 0].mean().item(), "top5": right.amax(dim=1).mean().item()}


def choose(
    features: Tensor, labels: Tensor, grid: Sequence[tuple[int, float]], device: torch.device | str = "cpu"
) -> tuple[int, float]:
    """The pair of k and temperature in the grid that classifies held-back training images best, the first of equals.

    Features [N, D] and labels, int64 [N], are the training split's; they are compared on the device.
    """
    if len(grid) == 1 or len(labels) < 2:
        return grid[0]
    held = folds(labels, min(HELD_BACK, len(labels)), seed=0) == 0
    bank, queries, truth = labels[~held], features[held], labels[held]
    most = min(max(k for k, _ in grid), len(bank))
    similarity, index = nearest(features[~held], queries, most, device=device)
    classes, voters = int(labels.max()) + 1, bank[index]  # [M, k]
    scores = [
        int((vote(similarity[:, :k], voters[:, :k], classes, t).argmax(1) == truth).sum()) for k, t in grid
    ]
    return grid[scores.index(max(scores))]
