"""The finished encoder as two files, weights (safetensors) and what rebuilds them (JSON); never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.core.config import Config
from sslpipe.networks.build import backbone
from sslpipe.networks.protocol import Backbone
from sslpipe.views.preprocess import Preprocess


class Header(Config):
    """What encoder.json holds."""

    format: Literal[1] = 1
    name: str
    options: dict[str, Any]
    image_size: int
    dim: int
    preprocess: Preprocess
    weights_sha256: str
    info: dict[str, Any]


def save_encoder(
    encoder: Backbone, folder: str | Path, *, preprocess: Preprocess, info: Mapping[str, Any]
) -> None:
    """Write `encoder.safetensors` and then `encoder.json`, each atomically; the JSON seals the weights.

    `preprocess` is what the encoder's input was made by, `info` any JSON that says where the weights come from.

    Raises:
        UserError: the disk is full, read-only or forbidden.
    """
    from safetensors.torch import save

    weights = Path(folder, "encoder.safetensors")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    scratch.atomic_write(weights, save(state))
    header = Header(
        name=encoder.name,
        options=encoder.options,
        image_size=encoder.image_size,
        dim=encoder.dim,
        preprocess=preprocess,
        weights_sha256=scratch.file_digest(weights),
        info=dict(info),
    )
    scratch.write_json(weights.with_suffix(".json"), header.model_dump(mode="json"))


def load_encoder(path: str | Path = "models/encoder.safetensors") -> Backbone:
    """The exported encoder on the CPU, in eval mode: a backbone with `.preprocess` and `.info`.

    `path` is that of the weights; `encoder.json` lies beside them.

    Raises:
        UserError: a file is missing or damaged, or the two do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    header = _read_header(path.with_suffix(".json"))
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro pretrain`, or `dvc pull`")
    if scratch.file_digest(path) != header.weights_sha256:
        reason = f"is damaged or not the one that {path.with_suffix('.json').name} describes"
        raise UserError(f"{path} {reason}: run `dvc repro pretrain`, or copy both files again")
    encoder = backbone(header.name, image_size=header.image_size, **header.options)
    try:
        encoder.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        reason = f"does not fit the network that its JSON file describes: export it again ({error})"
        raise UserError(f"{path} {reason}") from error
    encoder.preprocess, encoder.info = header.preprocess, header.info
    return encoder.eval()


def _read_header(path: Path) -> Header:
    try:
        return Header.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: run `dvc repro pretrain`, or copy it beside the weights"
        ) from None
    except ValidationError as error:
        remedy = "is damaged or from another version of sslpipe: run `dvc repro pretrain`"
        raise UserError(f"{path} {remedy}") from error
