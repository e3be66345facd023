"""The same picture twice: exact copies by digest, near ones by perceptual hash, then by looking at both.

A hash is a guess: different digits can share one. So pictures whose hashes are close are compared as small grey
pictures, and only those that differ little are called near duplicates. Their correlation decides, not the distance of
their levels: the same scene under another exposure is a copy, and two dim scenes that are hardly to be seen are none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 32  # of the small grey pictures, pixels
_BITS = 8  # a hash has 8 × 8
NEAR = 4  # bits in which the hashes of near duplicates may differ
ALIKE = 0.01  # of what makes a picture (its variance), what a near duplicate may not have in common with it
FLAT = 2.0  # levels of 255: below such a standard deviation there is nothing in a picture to correlate
LOOKED_AT = 20_000  # pairs of close hashes whose pictures are compared, the closest first
_CHUNK = 1 << 22  # hashes compared at once

#: The first rows of the discrete cosine transform (type II) of 32 values, float64 [8, 32].
_COSINES = np.cos(np.pi * np.arange(_BITS)[:, None] * (2 * np.arange(SIDE) + 1) / (2 * SIDE))
#: Gives the small grey pictures, float64 [32, 32] each, of these images of a split.
Look = Callable[[str, list[int]], Iterable[np.ndarray]]


def perceptual_hash(image: Image.Image) -> int:
    """64 bits, alike for pictures that look alike (pHash; Zauner 2010): do low frequencies exceed their median?"""
    low = _COSINES @ small(image) @ _COSINES.T  # [8, 8]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def small(image: Image.Image) -> np.ndarray:
    """A picture as 32 × 32 grey levels, float64."""
    grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(grey, np.float64)


@dataclass(frozen=True, order=True)
class Pair:
    """Image `index` of a split and the train image that it repeats; how much the two differ (see `unlike`)."""

    difference: float
    split: str
    index: int
    of: int
    exact: bool


@dataclass(frozen=True)
class Found:
    """What was found: images of train that have an earlier copy there, and images of test that have one in train."""

    counts: dict[str, int]  # of each split, exact and near; what has an exact copy is not counted as near
    pairs: tuple[Pair, ...]  # one for each such image, those of test first, then the closest first
    unseen: int  # pairs of close hashes beyond the first `LOOKED_AT`, which were not compared


def find(columns: dict[str, np.ndarray], look: Look) -> Found:
    """Duplicates within train and between train and test, by the rows of both indices (see `index.COLUMNS`)."""
    train, test = columns["train"], columns["test"]
    exact = list(_exact(train, test))
    known = {(pair.split, pair.index) for pair in exact}
    links = [link for link in _close(train["seen"], test["seen"]) if link[1:3] not in known]
    nearest: dict[tuple[str, int], Pair] = {}
    for pair in _look_at(sorted(links)[:LOOKED_AT], look):
        name = (pair.split, pair.index)
        if pair.difference <= ALIKE:
            nearest[name] = min(pair, nearest.get(name, pair))
    counts = {
        f"{split}_{kind}": sum(pair.split == split for pair in pairs)
        for split in ("train", "test")
        for kind, pairs in (("exact", exact), ("near", nearest.values()))
    }
    pairs = sorted((*exact, *nearest.values()), key=lambda pair: (pair.split, pair))  # test comes first
    return Found(counts, tuple(pairs), max(0, len(links) - LOOKED_AT))


def _exact(train: np.ndarray, test: np.ndarray) -> Iterator[Pair]:
    """Each copy with the first image of train that has the same bytes."""
    contents, first, inverse = np.unique(train["content"], return_index=True, return_inverse=True)
    original = first[inverse]  # [N]
    for index in np.flatnonzero(original != np.arange(len(train))).tolist():
        yield Pair(0.0, "train", index, int(original[index]), True)
    at = np.searchsorted(contents, test["content"]).clip(max=len(contents) - 1)
    for index in np.flatnonzero(contents[at] == test["content"]).tolist():
        yield Pair(0.0, "test", index, int(first[at[index]]), True)


def _close(train: np.ndarray, test: np.ndarray) -> Iterator[tuple[int, str, int, int]]:
    """Pairs of close hashes as (bits apart, split, index, index in train).

    A train image with the same hash as earlier ones is paired with the first of them, and only first ones with others:
    as many pairs as images, not as many as pairs of images, where thousands are black.
    """
    hashes, first, inverse = np.unique(train, return_index=True, return_inverse=True)
    original = first[inverse]
    for index in np.flatnonzero(original != np.arange(len(train))).tolist():
        yield 0, "train", index, int(original[index])
    for a, b, bits in _neighbours(hashes, hashes):
        one, other = sorted((int(first[a]), int(first[b])))
        if one != other and a < b:
            yield bits, "train", other, one
    wanted, back = np.unique(test, return_inverse=True)
    members = np.split(np.argsort(back, kind="stable"), np.cumsum(np.bincount(back))[:-1])
    for a, b, bits in _neighbours(wanted, hashes):
        for index in members[a].tolist():
            yield bits, "test", index, int(first[b])


def _neighbours(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Indices into a and b, and the bits apart, of values that differ in at most `NEAR` bits.

    Such values agree in at least one of `NEAR` + 1 groups of bits, so only those are compared.
    """
    edges = np.linspace(0, 64, NEAR + 2).astype(int)
    seen: set[tuple[int, int]] = set()
    for low, high in itertools.pairwise(edges.tolist()):
        mask = np.uint64((1 << high) - (1 << low))
        order = np.argsort(b & mask, kind="stable")
        parts = (b & mask)[order]
        starts = np.searchsorted(parts, a & mask, "left")
        counts = np.searchsorted(parts, a & mask, "right") - starts
        ends = np.flatnonzero(np.diff(np.cumsum(counts) // _CHUNK)) + 1
        for span in np.split(np.arange(len(a)), ends):
            number = counts[span]
            some = np.repeat(span, number)
            within = np.arange(len(some)) - np.repeat(np.cumsum(number) - number, number)
            others = order[starts[some] + within]
            bits = np.bitwise_count(a[some] ^ b[others])
            for at in np.flatnonzero(bits <= NEAR).tolist():
                pair = (int(some[at]), int(others[at]))
                if pair not in seen:
                    seen.add(pair)
                    yield *pair, int(bits[at])


def _look_at(links: list[tuple[int, str, int, int]], look: Look) -> Iterator[Pair]:
    """Compare the pictures of some pairs, a few hundred at once."""
    for start in range(0, len(links), 256):
        some = links[start : start + 256]
        wanted: dict[str, set[int]] = {"train": set(), "test": set()}
        for _, split, index, of in some:
            wanted[split].add(index)
            wanted["train"].add(of)
        lists = {split: sorted(indices) for split, indices in wanted.items()}
        pictures = {split: dict(zip(each, look(split, each), strict=True)) for split, each in lists.items()}
        for _, split, index, of in some:
            yield Pair(unlike(pictures[split][index], pictures["train"][of]), split, index, of, False)


def unlike(a: np.ndarray, b: np.ndarray) -> float:
    """How much two small pictures, float64 [32, 32] of levels 0 … 255, differ, from 0: one minus their correlation.

    Where one of them is flat, the distance of their levels, root mean square, as a fraction of 255.
    """
    if min(a.std(), b.std()) < FLAT:
        return float(np.sqrt(np.mean((a - b) ** 2)) / 255)
    covariance = np.mean((a - a.mean()) * (b - b.mean()))
    return max(0.0, float(1 - covariance / (a.std() * b.std())))
