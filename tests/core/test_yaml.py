from __future__ import annotations

from pathlib import Path

import pytest
from dvc.utils.serialize import parse_yaml

from sslpipe.core.yaml import read


@pytest.mark.parametrize(
    "text",
    [
        "pretrain: &base {epochs: 1, batch_size: 2}\nfinetune: {<<: *base, epochs: 3}\n",
        "a: &a {x: 1}\nb: &b {x: 2, y: 3}\nc:\n  <<: [*a, *b]\n  z: 4\n",
        "a: &a {x: {y: 1, z: 2}}\nb:\n  <<: *a\n  x: {y: 3}\n",
        "switch: on\nrate: 1e-3\nmode: 010\n",
    ],
)
def test_a_file_is_read_as_dvc_reads_it(text: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    assert read(file) == parse_yaml(text, file)
