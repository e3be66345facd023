"""The same picture twice: exact copies by digest, near ones by perceptual hash, then by looking at both.

A hash is a guess: different digits can share one. So pictures whose hashes are close are compared as small grey
pictures, and only those that differ little are called near duplicates. Their correlation decides, not the distance of
their levels: the same scene under another exposure is a copy, and two dim scenes that are hardly to be seen are none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
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

Look = Callable[[str, np.ndarray], np.ndarray]


def _cosines() -> np.ndarray:
    """The first rows of the discrete cosine transform (type II) of 32 values, float64 [8, 32]."""
    k, n = np.arange(_BITS)[:, None], np.arange(SIDE)[None]
    return np.cos(np.pi * k * (2 * n + 1) / (2 * SIDE))


_COSINES = _cosines()


def perceptual_hash(image: Image.Image) -> int:
    """64 bits, alike for pictures that look alike (pHash; Zauner 2010): do low frequencies exceed their median?

    Args:
        image: grey or RGB.
    """
    low = _COSINES @ small(image) @ _COSINES.T  # [8, 8]
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def small(image: Image.Image) -> np.ndarray:
    """A picture as 32 × 32 grey levels, float64."""
    grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(grey, np.float64)


@dataclass(frozen=True, order=True)
class Pair:
    """Two pictures alike: how much they differ (see `unlike`), and where they are."""

    difference: float
    split: str
    place: int
    other: int  # in train
    exact: bool


@dataclass(frozen=True)
class Found:
    """What was found.

    Args:
        counts: images of train that have an earlier copy there, images of test that have one in train; each
            exact and near (an image with an exact copy is not counted as near).
        pairs: one for each such image, the closest first, those across the splits before the others.
        unseen: pairs of close hashes beyond the first `LOOKED_AT`, which were not compared.
    """

    counts: dict[str, int]
    pairs: tuple[Pair, ...]
    unseen: int


def find(columns: dict[str, np.ndarray], look: Look) -> Found:
    """Duplicates within train and between train and test.

    Args:
        columns: the indices of both splits, see `index.COLUMNS`.
        look: gives the small grey pictures, float64 [n, 32, 32], of these places, int64 [n], of a split.
    """
    train, test = columns["train"], columns["test"]
    exact = list(_exact(train, test))
    known = {(pair.split, pair.place) for pair in exact}
    links = [link for link in _close(train["seen"], test["seen"]) if link[1:3] not in known]
    nearest: dict[tuple[str, int], Pair] = {}
    for pair in _look_at(sorted(links)[:LOOKED_AT], look):
        name = (pair.split, pair.place)
        if pair.difference <= ALIKE and (name not in nearest or pair < nearest[name]):
            nearest[name] = pair
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
    for place in np.flatnonzero(original != np.arange(len(train))).tolist():
        yield Pair(0.0, "train", place, int(original[place]), True)
    at = np.searchsorted(contents, test["content"]).clip(max=len(contents) - 1)
    for place in np.flatnonzero(contents[at] == test["content"]).tolist():
        yield Pair(0.0, "test", place, int(first[at[place]]), True)


def _close(train: np.ndarray, test: np.ndarray) -> Iterator[tuple[int, str, int, int]]:
    """Pairs of close hashes as (bits apart, split, place, place in train).

    A train image with the same hash as earlier ones is paired with the first of them, and only first ones with
    others: as many pairs as images, not as many as pairs of images, where thousands are black.
    """
    hashes, first, inverse = np.unique(train, return_index=True, return_inverse=True)
    for place in np.flatnonzero(first[inverse] != np.arange(len(train))).tolist():
        yield 0, "train", place, int(first[inverse[place]])
    for a, b, bits in _neighbours(hashes, hashes):
        one, other = sorted((int(first[a]), int(first[b])))
        if one != other and a < b:
            yield bits, "train", other, one
    wanted, back = np.unique(test, return_inverse=True)
    members = np.split(np.argsort(back, kind="stable"), np.cumsum(np.bincount(back))[:-1])
    for a, b, bits in _neighbours(wanted, hashes):
        for place in members[a].tolist():
            yield bits, "test", place, int(first[b])


def _neighbours(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Places in a and in b, and the bits apart, of values that differ in at most `NEAR` bits.

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
        for left, right in _spans(counts):
            some = np.repeat(np.arange(left, right), counts[left:right])
            ends = np.cumsum(counts[left:right])
            within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(
                ends - counts[left:right], counts[left:right]
            )
            others = order[starts[some] + within]
            bits = np.bitwise_count(a[some] ^ b[others])
            for at in np.flatnonzero(bits <= NEAR).tolist():
                pair = (int(some[at]), int(others[at]))
                if pair not in seen:
                    seen.add(pair)
                    yield *pair, int(bits[at])


def _spans(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cut 0 … n into spans whose counts add up to about `_CHUNK`."""
    total = np.cumsum(counts)
    left = 0
    while left < len(counts):
        before = total[left - 1] if left else 0
        right = max(int(np.searchsorted(total, before + _CHUNK, "right")), left + 1)
        yield left, right
        left = right


def _look_at(links: list[tuple[int, str, int, int]], look: Look) -> Iterator[Pair]:
    """Compare the pictures of some pairs, a few hundred at once."""
    for start in range(0, len(links), 256):
        some = links[start : start + 256]
        pictures: dict[tuple[str, int], np.ndarray] = {}
        for split in ("train", "test"):
            places = sorted(
                {link[2] for link in some if link[1] == split}
                | ({link[3] for link in some} if split == "train" else set())
            )
            if places:
                looked = look(split, np.array(places))
                pictures.update(
                    {(split, place): picture for place, picture in zip(places, looked, strict=True)}
                )
        for _, split, place, other in some:
            apart = unlike(pictures[split, place], pictures["train", other])
            yield Pair(apart, split, place, other, False)


def unlike(a: np.ndarray, b: np.ndarray) -> float:
    """How much two small pictures differ, from 0: one minus their correlation.

    Where one of them is flat, the distance of their levels, root mean square, as a share of 255.

    Args:
        a: float64 [32, 32], levels 0 … 255.
        b: the same.
    """
    spread = min(a.std(), b.std())
    if spread < FLAT:
        return float(np.sqrt(np.mean((a - b) ** 2)) / 255)
    covariance = np.mean((a - a.mean()) * (b - b.mean()))
    return max(0.0, float(1 - covariance / (a.std() * b.std())))
