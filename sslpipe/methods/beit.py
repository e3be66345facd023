"""BEiT: blocks of patches are hidden; a vision transformer predicts the words that a tokenizer has for them.

Bao, Dong, Piao, Wei, "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022, arXiv:2106.08254.
ImageNet, ViT-B/16, 800 epochs: fine-tune 83.2.

Settings are the official code's for ImageNet-1k (github.com/microsoft/unilm, beit/README.md and the defaults of
run_beit_pretraining.py): AdamW with a rate of 1.5e-3 for a batch of 2048, not scaled with it, β (.9, .98), weight decay
.05, gradients clipped at norm 3, 10 warm-up epochs, a cosine to 1e-5. The views, with blockwise masks and the
tokenizer's crop, are in views/recipes/beit.yaml.

The official transformer has relative positions, a layer scale of .1 and a drop path of .1: `timm:beit_base_patch16_224`
with `backbone_options: {layer_scale: 0.1, drop_path: 0.1}`, or `small_vit` with `{position: relative, layer_scale: 0.1,
drop_path: 0.1}`.

What differs: the tokenizer is not DALL-E's but is trained on the same images first (sslpipe/networks/tokenizer.py),
and the loss is one mean over the hidden patches of all ranks, where the official code averages the ranks' means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.core.distributed import mean
from sslpipe.data.loader import Loader
from sslpipe.losses import masked_token_cross_entropy
from sslpipe.methods.base.config import SMALL_ADAMW, MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Backbone, Clock, Method, Preparation, Recipe, Scale, Step, View
from sslpipe.methods.base.pictures import IMAGES, hidden_patches, hide, plain, sheet
from sslpipe.methods.base.scale import root_of_images
from sslpipe.networks import tokenizer as tokenizers
from sslpipe.networks.tokenizer import Tokenizer, TokenizerConfig, perplexity
from sslpipe.views.engine import ViewEngine


def _small_vocabulary(tokenizer: TokenizerConfig, paper: Scale, here: Scale) -> tuple[dict[str, object], str]:
    """Fewer words for fewer images; batches of the tokenizer that are no larger than the transformer's."""
    words, _ = root_of_images(tokenizer.words, paper, here)
    changed = {"words": words, "batch_size": min(tokenizer.batch_size, here.batch)}
    why = "words by the square root of the images, batches as large as the transformer's at most"
    return {key: value for key, value in changed.items() if value != getattr(tokenizer, key)}, why


class BEiT(Method):
    """L = − mean over hidden patches i ∈ M of log p(z_i | x^M), z the words of the same crop (eq. 2)."""

    class Config(MethodConfig):
        tokenizer: TokenizerConfig = TokenizerConfig()
        optimizer: OptimizerConfig = OptimizerConfig(
            name="adamw", lr=1.5e-3, rule="absolute", betas=(0.9, 0.98), weight_decay=0.05, clip=3.0,
            warmup_epochs=10, final_lr=1 / 150,
        )  # fmt: skip

    paper = "Bao et al., ICLR 2022, arXiv:2106.08254"
    backbone_options = {"start": "beit"}
    small_backbone_options = {
        "start": "mae"
    }  # the official one is small for a width of 128: it learns half as fast
    small = {
        "tokenizer": {"words": 128, "dim": 16, "width": 32, "epochs": 6, "batch_size": 128, "lr": 0.002},
        "optimizer": SMALL_ADAMW,
    }
    takes = ("vit",)
    needs = "trains a tokenizer first"
    default_backbone = "small_vit"
    scales = (
        Scale(
            batch=2048, epochs=800, source="README.md of the official code",
            shorter="the official commands train 800 epochs, or 150 of the eleven times larger ImageNet-22k",
        ),
    )  # fmt: skip
    rules = {"tokenizer": _small_vocabulary}

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__(backbone, config)
        assert backbone.patch_size is not None
        assert backbone.grid is not None
        self.patch_size, self.grid, self.config = backbone.patch_size, backbone.grid, config
        backbone.learn_mask_token()  # e_[M]
        self.head = nn.Linear(backbone.dim, config.tokenizer.words)  # W_c, b_c
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        # The tokenizer's crop has half the image's side: a word for 8 pixels where a patch has 16.
        self.tokenizer = Tokenizer(config.tokenizer, (backbone.patch_size + 1) // 2)  # q_φ(z | x)
        self.freeze(self.tokenizer)

    def prepare(self, preparation: Preparation) -> None:
        """Train the tokenizer on the tokenizer's views of the training images, or take it from an earlier run."""
        # A view that shares nothing is drawn as the one it shared with was: these are the crops of BEiT's training.
        spec = preparation.recipe["tokenizer"].model_copy(update={"share": None})
        self._check_size(spec.size)
        config, pixels = self.config.tokenizer, self.tokenizer.pixels
        reader, device, seed = preparation.reader, preparation.device, preparation.seed
        loader = Loader(reader, batch_size=min(config.batch_size, len(reader)), seed=seed)
        engine = ViewEngine(Recipe(views=(spec,)), seed=seed, device=device, renderer=preparation.renderer)

        def batches(epoch: int) -> Iterable[Tensor]:
            return (view.pixels for _, (view,) in engine.ahead(loader.epoch(epoch), epoch))

        settings = [config.model_dump(mode="json"), pixels, seed]
        identity = [dict(preparation.parts), spec.model_dump(mode="json"), settings]
        folder = preparation.folder(f"tokenizer-{scratch.digest(identity)[:16]}")
        found = tokenizers.trained(
            config, pixels, batches, loader.steps, seed=seed, device=device, folder=folder
        )
        self.tokenizer.load_state_dict(found.state_dict())

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch; the transformer sees the image with tokens for hidden patches, the tokenizer the whole crop."""
        image, same_crop = views
        masks, most = hidden_patches(image)
        self._check_size(same_crop.pixels.shape[-1])
        z = self.tokenizer.words(same_crop.pixels)  # [N, P]
        h = self.backbone.tokens(image.pixels, mask=masks)  # [N, P, D]
        # The head works where patches are hidden alone, since |V| is large. M has as many patches for each image as are
        # hidden where most are: the few that are not hidden do not count.
        M = masks.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]  # [N, M]
        hidden, words = masks.gather(1, M), z.gather(1, M)  # [N, M]
        logits = self.head(h.gather(1, M[:, :, None].expand(-1, -1, h.shape[2])))  # [N, M, |V|]
        loss = masked_token_cross_entropy(logits, words, hidden)
        right = ((logits.detach().argmax(dim=2) == words) & hidden).sum() / hidden.sum().clamp(min=1)
        uses = z.new_zeros(self.config.tokenizer.words).index_add_(
            0, z.flatten(), torch.ones_like(z.flatten())
        )
        numbers = {"accuracy": right, "perplexity_of_words": perplexity(uses)}
        return Step(loss * _relative(masks.sum()), numbers)

    @torch.no_grad()
    def pictures(self, views: list[View]) -> Iterator[tuple[str, Tensor]]:
        """Crops and what their words show; hidden patches, and what the predicted and the true words show there."""
        image, same_crop = views
        mask = hidden_patches(image)[0][:IMAGES]
        x, crop = image.pixels[:IMAGES], same_crop.pixels[:IMAGES]
        z = self.tokenizer.words(crop)  # [n, P]
        decoded = plain(self.tokenizer.decode(z, self.grid), same_crop)
        yield "tokenizer", sheet([plain(crop, same_crop), decoded])
        predicted = self.head(self.backbone.tokens(x, mask=mask)).argmax(dim=2)  # [n, P]
        seen = self.tokenizer.decode(torch.where(mask, predicted, z), self.grid)
        original = plain(x, image)
        large = [F.interpolate(row, size=original.shape[-2:]) for row in (plain(seen, same_crop), decoded)]
        yield "predicted_words", sheet([original, hide(original, mask, self.patch_size), *large])

    def _check_size(self, size: int) -> None:
        """Refuse a crop that does not give one word a patch."""
        wanted = self.grid[0] * self.tokenizer.pixels
        if size != wanted:
            raise UserError(
                f"BEiT's tokenizer needs a crop of {wanted} pixels, a word for each patch, not {size}: "
                f"leave views.recipe.tokenizer.size alone or set it to {wanted}"
            )


def _relative(hidden: Tensor) -> Tensor:
    """This rank's hidden patches as a multiple of a rank's average: blockwise masks hide more here and fewer there.

    The average over ranks of loss · this is one mean over the hidden patches of all ranks.
    """
    count = hidden.float()
    return count / mean(count).clamp(min=1)
