from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from sslpipe.sharding import sources
from sslpipe.sharding.sources import Config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"source": "mnist"},
            r"no source 'mnist', did you mean 'mnist5k'\? \(known: .*folder, .*torchvision:<name>.*\)",
        ),
        ({"source": "torchvision:CIFAR11"}, "did you mean 'torchvision:CIFAR10'.*torchvision:EuroSAT"),
        ({"source": "Folders"}, "did you mean 'folder'"),
        ({"source": "xyz"}, r"there is no source 'xyz' \(known"),
        ({"source": "folder"}, "set root to where your images are"),
        (
            {"root": "~/photos"},
            r"root is set, but source is mnist5k.*\(.*folder, .*torchvision:<name>\)",
        ),
        (
            {"source": "torchvision"},
            r"there is no source 'torchvision'.*known: .*torchvision:<name>\)",
        ),
        ({"source": "mnist5k:x"}, r"there is no source 'mnist5k:x', did you mean 'mnist5k'"),
        ({"source": "__init__"}, r"there is no source '__init__' \(known"),
        ({"test_fraction": 0}, "greater than 0"),
        ({"test_fraction": 1.0}, "less than 1"),
        ({"roots": "x"}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config(**settings)


def test_every_source_is_found_and_described() -> None:
    assert {"elpv", "folder", "mnist5k", "shards", "torchvision"} <= set(sources.names())
    description = Config.model_fields["source"].description or ""
    assert "mnist5k (bundled digits)" in description
    assert "torchvision:<name> (downloaded sets)" in description


def test_digests_need_no_slow_package() -> None:
    code = (
        "import sys; from sslpipe.sharding import config, sources\n"
        "sources.source_digest(sources.Config())\n"
        "slow = {'torch', 'torchvision', 'numpy', 'PIL', 'mlxtend.data'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sharding_needs_no_torch() -> None:
    code = (
        "import sys; from sslpipe.sharding import shard; from sslpipe.shards.scaling import loops\n"
        "slow = {'torch', 'torchvision', 'webdataset', 'mlxtend.data'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
