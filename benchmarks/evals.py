"""Evaluations beside what people use for the same: time, and that the accuracy is the same; all in one run.

    python benchmarks/evals.py                  some minutes on two cores
    python benchmarks/evals.py --parts knn      only that part; --rounds 3: fewer rounds

k-NN: features in clusters, some near each other, as an encoder gives them: a bank, queries, and 100 classes. Exact
search by cosine and the same weighted vote: ours, faiss (`IndexFlatIP`), scikit-learn (`KNeighborsClassifier`, brute
force).

Linear probe: the pixels of the bundled digits. Six rates on five folds and on all labels are 36 classifiers: ours
trains them side by side; one at a time is what a script does, with torch's `Linear` and `SGD`; scikit-learn's
`LogisticRegressionCV` chooses among as many strengths of its penalty on as many folds.

Contenders take turns, round by round; medians over rounds and the spread between the quartiles. The first round warms
up.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from sslpipe.measures.config import ProbeConfig
from sslpipe.measures.knn import knn
from sslpipe.measures.probe import fit
from sslpipe.measures.subsets import folds
from sslpipe.sharding import sources

K, TEMPERATURE = 20, 0.07
Contender = Callable[[], float]  # does it all; the accuracy on the test features


def main() -> None:
    """Print the tables."""
    options = _parse()
    warnings.filterwarnings("ignore")
    machine = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.machine()}, {platform.system()}"
    print(f"{time.strftime('%F')}; {machine}, torch {torch.__version__}")
    if "knn" in options.parts:
        bank, queries = clustered(options.bank, options.queries, options.dim)
        what = f"k-NN, bank {options.bank:,} × {options.dim}, {options.queries:,} queries, k {K}"
        _table(what, knn_contenders(bank, queries), options.rounds)
    if "linear" in options.parts:
        train, test = digits()
        what = f"linear probe, {len(train[0]):,} × {train[0].shape[1]}, 6 settings × 5 folds, all labels"
        _table(what, probe_contenders(train, test, options.epochs), options.rounds)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=["knn", "linear"], choices=["knn", "linear"])
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--bank", type=int, default=50_000, help="features in the bank; default: 50 000")
    parser.add_argument("--queries", type=int, default=5_000, help="default: 5 000")
    parser.add_argument("--dim", type=int, default=512, help="of the features; default: 512")
    parser.add_argument("--epochs", type=int, default=90, help="of the probes by SGD; default: 90")
    return parser.parse_args()


def _table(what: str, contenders: Mapping[str, Contender], rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    scores: dict[str, float] = {}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            start = time.perf_counter()
            scores[name] = contender()
            if number:
                seconds[name].append(time.perf_counter() - start)
    ours = statistics.median(seconds["ours"])
    print(f"\n## {what}, n = {rounds} rounds\n")
    print("| | seconds | quartiles | to ours | top-1, % |\n|---|---:|---:|---:|---:|")
    for name, values in seconds.items():
        low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        print(
            f"| {name} | {middle:.2f} | {low:.2f}–{high:.2f} | {middle / ours:.1f} | {100 * scores[name]:.2f} |"
        )


# k-NN


def clustered(bank: int, queries: int, dim: int, classes: int = 100) -> tuple[tuple[Tensor, Tensor], ...]:
    """Features [N, D] and labels [N] of a bank and of queries: a cluster a class, each wider than they lie apart."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, dim, generator=generator)
    made = []
    for count in (bank, queries):
        labels = torch.randint(classes, (count,), generator=generator)
        features = centres[labels] + 4.0 * torch.randn(count, dim, generator=generator)
        made.append((features, labels))
    return tuple(made)


def knn_contenders(bank: tuple[Tensor, Tensor], queries: tuple[Tensor, Tensor]) -> dict[str, Contender]:
    """The same vote of the same neighbours."""

    def ours() -> float:
        return knn(*bank, *queries, k=K, temperature=TEMPERATURE)["top1"]

    contenders: dict[str, Contender] = {"ours": ours}
    if importlib.util.find_spec("faiss"):
        contenders["faiss"] = lambda: _faiss(bank, queries)
    else:
        print("faiss is left out: `pip install faiss-cpu`")
    return {**contenders, "scikit-learn": lambda: _sklearn(bank, queries)}


def _faiss(bank: tuple[Tensor, Tensor], queries: tuple[Tensor, Tensor]) -> float:
    import faiss

    x, q = (normalize(features, dim=1).numpy() for features, _ in (bank, queries))
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    similarity, places = index.search(q, K)
    labels = bank[1].numpy()[places]  # [M, K]
    votes = np.zeros((len(q), int(labels.max()) + 1), np.float32)
    weights = np.exp((similarity - similarity[:, :1]) / TEMPERATURE)
    np.add.at(votes, (np.arange(len(q))[:, None], labels), weights)
    return float((votes.argmax(1) == queries[1].numpy()).mean())


def _sklearn(bank: tuple[Tensor, Tensor], queries: tuple[Tensor, Tensor]) -> float:
    from sklearn.neighbors import KNeighborsClassifier

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((distance.min(1, keepdims=True) - distance) / TEMPERATURE)

    classifier = KNeighborsClassifier(K, metric="cosine", algorithm="brute", weights=weights, n_jobs=-1)
    classifier.fit(bank[0].numpy(), bank[1].numpy())
    return float((classifier.predict(queries[0].numpy()) == queries[1].numpy()).mean())


# Linear probe


def digits() -> tuple[tuple[Tensor, Tensor], ...]:
    """Pixels [N, 784] in [0, 1] and labels [N] of the bundled digits, for training and for testing."""
    splits = sources.open_source(sources.Config(), 0).splits
    return tuple(
        (
            torch.tensor(
                np.stack([item.pixels.ravel() for item in splits[split]]) / 255, dtype=torch.float32
            ),  # type: ignore[union-attr]
            torch.tensor([item.label for item in splits[split]]),
        )
        for split in ("train", "test")
    )


def probe_contenders(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], epochs: int
) -> dict[str, Contender]:
    """A setting chosen by five folds, a classifier with it on all labels, tested once."""
    settings = ProbeConfig(epochs=epochs)

    def ours() -> float:
        probe = fit(*train, 10, settings, seed=0)
        return float((probe(test[0]).argmax(1) == test[1]).double().mean())

    return {
        "ours": ours,
        "one at a time": lambda: _one_at_a_time(train, test, settings),
        "scikit-learn": lambda: _logistic(train, test, settings),
    }


def _one_at_a_time(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], settings: ProbeConfig) -> float:
    mean, std = train[0].mean(0), train[0].std(0, correction=0).clamp_min(1e-6)
    x, y = (train[0] - mean) / std, train[1]
    fold = folds(y, settings.folds, 0)
    hits = dict.fromkeys(settings.lrs, 0)
    for lr, held in itertools.product(settings.lrs, range(settings.folds)):
        here = fold == held
        head = _trained(x[~here], y[~here], lr, settings)
        hits[lr] += int((head(x[here]).argmax(1) == y[here]).sum())
    head = _trained(x, y, max(hits, key=lambda lr: hits[lr]), settings)
    with torch.no_grad():
        return float((head((test[0] - mean) / std).argmax(1) == test[1]).double().mean())


def _trained(x: Tensor, y: Tensor, lr: float, settings: ProbeConfig) -> nn.Linear:
    head = nn.Linear(x.shape[1], 10)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=settings.momentum)
    steps = settings.epochs * math.ceil(len(x) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(x), generator=generator).split(settings.batch_size):
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(head(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return head


def _logistic(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], settings: ProbeConfig) -> float:
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    x, y = scaler.fit_transform(train[0].numpy()), train[1].numpy()
    classifier = LogisticRegressionCV(
        Cs=np.logspace(-5, 0, len(settings.lrs)), cv=settings.folds, max_iter=500, n_jobs=-1
    )
    classifier.fit(x, y)
    return float((classifier.predict(scaler.transform(test[0].numpy())) == test[1].numpy()).mean())


if __name__ == "__main__":
    main()
