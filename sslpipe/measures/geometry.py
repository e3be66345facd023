"""How far features spread, how many dimensions they fill, and how they lie: nothing is trained on them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sslpipe.measures.knn import nearest

ALPHA, T = 2, 2  # of alignment and uniformity, as Wang & Isola's experiments have them
DELTA = 1e-4  # added to the within-class variances of LiDAR
RANKS = (4, 100)  # of the eigenvalues that the power law is fitted to, both included
_FEWEST = 8  # eigenvalues that a power law may be fitted to
_DEAD = 1e-4  # deviation of a dead feature, as a share of the features' root mean square


@torch.no_grad()
def spread(z: Tensor) -> Tensor:
    """Mean standard deviation of the normalised rows of z [N, D], times √D: 1 when spread out, 0 when collapsed.

    Chen & He 2021, Fig. 2.
    """
    z = normalize(z.float(), dim=1)
    return z.std(dim=0).mean() * z.shape[1] ** 0.5


@torch.no_grad()
def effective_rank(z: Tensor) -> Tensor:
    """RankMe: how many dimensions the rows of z [N, D] fill, from 1 to min(N, D).

    exp(−Σ_k p_k log p_k) with p_k = σ_k / Σ_j σ_j + ε, σ the singular values of z and ε = 1e-7.

    Garrido et al., "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by
    Their Rank", ICML 2023, eq. 1. It says which of two runs of one method is the better, not which of two methods.
    """
    return rank_of(torch.linalg.svdvals(z.double()))  # of [min(N, D)]


@torch.no_grad()
def rank_of(spectrum: Tensor) -> Tensor:
    """How many of a spectrum's values, at least 0, count: the exponential of the entropy of their fractions.

    exp(−Σ_k p_k log p_k) with p_k = s_k / Σ_j s_j + 1e-7 (Roy & Vetterli 2007): K for K equal values, 1 for one.
    """
    p = spectrum / spectrum.sum().clamp(min=torch.finfo(spectrum.dtype).tiny) + 1e-7
    return torch.special.entr(p).sum().exp()


def alignment(x: Tensor, y: Tensor, alpha: float = ALPHA) -> float:
    """How far apart two views of an image are: E ‖x − y‖^α over the images, of L2-normalised features; 0 is best.

    Wang & Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere", ICML 2020, eq. 5. x and y are [N, D], a view each. For α = 2 it is 2 − 2 · cosine, 4 at most.
    """
    return (normalize(x.double(), dim=1) - normalize(y.double(), dim=1)).norm(dim=1).pow(alpha).mean().item()


def uniformity(x: Tensor, t: float = T) -> float:
    """How evenly features [N, D] lie on the sphere: log E exp(−t ‖x − y‖²) over pairs of different images; low is even.

    0 where all features are equal, about −2t for many points spread evenly over a sphere of many dimensions.
    Wang & Isola 2020, eq. 6; features are normalised inside, N is at least 2.
    """
    z = normalize(x.double(), dim=1)
    n, total = len(z), 0.0
    for start in range(0, n, 1024):
        squares = (2 - 2 * z[start : start + 1024] @ z.T).clamp_(min=0)  # [n, N]
        total += squares.mul_(-t).exp_().sum().item()
    # Each image with itself gives exp(0).
    return torch.tensor((total - n) / (n * (n - 1)), dtype=torch.float64).clamp(min=1e-300).log().item()


def lidar(views: Tensor, delta: float = DELTA, *, unbiased: bool = False) -> float:
    """LiDAR: in how many directions images differ more than their own views do, from 1 to min(n − 1, D).

    Each image is a class, its views are the samples: with μ_x the mean over the views of image x and μ over all,
    Σ_b = E_x (μ_x − μ)(μ_x − μ)ᵀ, Σ_w = E_x E_view (e − μ_x)(e − μ_x)ᵀ + δI, and λ the eigenvalues of
    Σ_w^−½ Σ_b Σ_w^−½: exp(−Σ p log p) with p = λ / Σλ + ε.

    Thilak et al., "LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures", ICLR 2024,
    eq. 1–4; δ and ε are called small there and are 1e-4 and 1e-7 here.

    Args:
        views: [n, q, D], features of q views of each of n images; q at least 2.
        delta: δ, in units of the features squared.
        unbiased: take out of Σ_b what the means of q views vary by chance, Σ_w / q in expectation (analysis of
            variance, both with their degrees of freedom). It lies alike in all directions, so that the plain number
            falls as q grows; this one hardly depends on it. Not in the paper, which has q = 10 or 50.
    """
    e = views.double()
    n, q, d = e.shape
    means = e.mean(dim=1)  # [n, D]
    between = means - means.mean(dim=0)
    within = (e - means[:, None]).reshape(n * q, d)
    sigma_b = between.T @ between / n  # [D, D]
    sigma_w = within.T @ within / (n * q)
    if unbiased:
        sigma_w *= q / (q - 1)
        sigma_b = sigma_b * (n / (n - 1)) - sigma_w / q
    sigma_w += delta * torch.eye(d, dtype=e.dtype, device=e.device)
    # L⁻¹ Σ_b L⁻ᵀ with Σ_w = L Lᵀ has the eigenvalues of the symmetric product, without a square root of a matrix.
    factor = torch.linalg.cholesky(sigma_w)
    half = torch.linalg.solve_triangular(factor, sigma_b, upper=False)
    product = torch.linalg.solve_triangular(factor, half.T, upper=False)
    return rank_of(torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0)).item()


def eigenspectrum(x: Tensor) -> Tensor:
    """Eigenvalues of the covariance of features [N, D] as fractions of their sum, falling, at least 0: [min(N, D)]."""
    centred = x.double() - x.double().mean(dim=0)
    n, d = centred.shape
    # The smaller of the two products has the same eigenvalues but for zeros.
    product = centred.T @ centred if d <= n else centred @ centred.T
    values = torch.linalg.eigvalsh(product).flip(0).clamp(min=0)
    return values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)


def power_law(spectrum: Tensor, ranks: tuple[int, int] = RANKS) -> tuple[float, float] | None:
    """α-ReQ: the exponent α of λ_i ≈ c · i^−α, and R² of the fit in the logarithms.

    Least squares of log λ on log i with weights 1 / i over the ranks 4 to 100, as the official code fits
    (fastssl's `stringer_get_powerlaw`, by Stringer et al. 2019, over `arange(3, 100)`).

    Agrawal et al., "α-ReQ: Assessing Representation Quality in Self-Supervised Learning by measuring eigenspectrum
    decay", NeurIPS 2022, Sec. 3: features near α = 1 serve best.

    The spectrum [K] falls; the ranks, first and last, count from 1 and are cut to the values above 1e-12 of the
    largest. None where fewer than 8 are left: that says nothing of a law.
    """
    usable = int((spectrum > 1e-12 * spectrum.max()).sum()) if len(spectrum) else 0
    first, last = ranks[0], min(ranks[1], usable)
    if last - first + 1 < _FEWEST:
        return None
    rank = torch.arange(first, last + 1, dtype=torch.float64)
    x, y = rank.log(), spectrum[first - 1 : last].double().cpu().log()
    weight = 1 / rank / (1 / rank).sum()
    dx, dy = x - (weight * x).sum(), y - (weight * y).sum()
    slope = (weight * dx * dy).sum() / (weight * dx * dx).sum()
    left, all_of_it = (weight * (dy - slope * dx) ** 2).sum(), (weight * dy * dy).sum()
    return -slope.item(), (1 - left / all_of_it.clamp(min=1e-300)).item()


def purity(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, k: int) -> float:
    """Fraction of the k nearest training images, by cosine, of the test image's class; the mean over test images.

    Features are [N, D] and [M, D], labels int64 [N] and [M]; k is at most N.
    """
    _, index = nearest(train, test, k)  # [M, k]
    return (train_labels[index] == test_labels[:, None]).double().mean().item()


def dead_dimensions(x: Tensor) -> int:
    """How many of the D features are the same for all images [N, D]: below 1e-4 of the features' root mean square."""
    x = x.double()
    return int((x.std(dim=0, correction=0) <= _DEAD * x.square().mean().sqrt()).sum())
