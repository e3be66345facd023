"""Print a digest of what this machine makes of a fixed computation in which nothing of sslpipe takes part.

Two machines that print the same round alike in all that the golden test runs: convolutions, normalisation, products of
matrices, transcendental functions, decompositions, compiled loops, and the decoding and scaling of images. Another
version of a library that computes counts as another machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import numba
import numpy as np
import torch
from PIL import Image
from torch import nn

COMPUTING = (
    "torch", "torchvision", "numba", "llvmlite", "numpy", "scipy", "pillow", "simplejpeg", "timm", "scikit-learn",
    "mlxtend", "torchmetrics", "pycocotools",
)  # fmt: skip


@numba.njit(fastmath=True)
def total(values: np.ndarray) -> float:
    """A sum that may be added up in any order."""
    result = np.float32(0)
    for value in values:
        result += np.exp(value) * value
    return result


def network() -> Iterator[torch.Tensor]:
    """A loss, its gradients, and the weights after two steps."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
    ]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(784, 32), nn.LayerNorm(32), nn.Linear(32, 12))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    images, labels = torch.randn(24, 3, 16, 16), torch.arange(24) % 12
    for _ in range(2):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        yield loss
        yield from (weight.grad for weight in model.parameters())
        optimizer.step()
    yield from model.state_dict().values()


def functions() -> Iterator[torch.Tensor]:
    """Functions, sums and decompositions, in single and double precision."""
    for dtype in (torch.float32, torch.float64):
        generator = torch.Generator().manual_seed(1)
        matrix = torch.randn(70, 33, generator=generator, dtype=dtype)
        positive = matrix.abs() + 0.1
        yield from (matrix.exp(), matrix.erf(), matrix.tanh(), matrix.sin(), matrix.sigmoid(), positive.log())
        yield from (
            positive.rsqrt(),
            positive.pow(0.7),
            matrix.sum(0),
            matrix.sum(1),
            matrix.std(),
            matrix.norm(),
        )
        product = matrix @ matrix.T
        yield from (product, product.softmax(1), product.logsumexp(1), product.topk(5).values)
        yield from torch.linalg.svd(matrix, full_matrices=False)
        yield from torch.linalg.eigh(product)
        attended = matrix[None, None, :64, :32]
        yield nn.functional.scaled_dot_product_attention(attended, attended, attended)
        yield nn.functional.interpolate(matrix[None, None], size=(16, 16), mode="bilinear", antialias=True)


def arrays() -> Iterator[np.ndarray]:
    """The same by numpy, loops compiled by numba, and images by Pillow."""
    random = np.random.RandomState(2)
    for dtype in (np.float32, np.float64):
        matrix = random.standard_normal((40, 31)).astype(dtype)
        positive = np.abs(matrix) + dtype(0.1)
        yield from (
            np.exp(matrix),
            np.tanh(matrix),
            np.sin(matrix),
            np.log(positive),
            np.power(positive, 0.7),
        )
        yield from (matrix.sum(0), matrix.mean(1), np.std(matrix, 0), matrix @ matrix.T)
        yield from np.linalg.svd(matrix, full_matrices=False)
        yield np.array(total(matrix.ravel()))
    noise = Image.fromarray(random.randint(0, 256, (45, 61, 3)).astype(np.uint8))
    for filter_ in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS):
        yield np.asarray(noise.resize((23, 17), filter_))
    file = io.BytesIO()
    noise.save(file, "JPEG", quality=85)
    yield np.asarray(Image.open(file))


def installed(name: str) -> str | None:
    """A package's version, None where it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Print the digest, and in words what it was made on."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    versions = {name: installed(name) for name in COMPUTING}
    versions["python"] = ".".join(map(str, sys.version_info[:2]))
    found = hashlib.sha256(json.dumps([versions, torch.__version__], sort_keys=True).encode())
    for tensor in (*network(), *functions()):
        found.update(np.ascontiguousarray(tensor.detach().numpy()).tobytes())
    for array in arrays():
        found.update(np.ascontiguousarray(array).tobytes())
    made_on = (
        f"{platform.system()} {platform.machine()}, torch {torch.__version__}, Python {versions['python']}"
    )
    print(json.dumps({"probe": found.hexdigest()[:16], "made_on": made_on}))


if __name__ == "__main__":
    main()
