"""MAE's encoder, decoder and loss against transformers' ViTMAE with the same weights."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from transformers_layers import copy_layers

from sslpipe.losses import masked_mse
from sslpipe.networks import backbone
from sslpipe.networks.decoders import MAEDecoder
from sslpipe.networks.patches import patchify

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own
    vit_mae = pytest.importorskip(
        "transformers.models.vit_mae.modeling_vit_mae", reason="transformers is not installed"
    )

SIDE, PATCH, DEPTH = 24, 4, 2


@pytest.fixture
def theirs() -> nn.Module:
    config = vit_mae.ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=SIDE,
        patch_size=PATCH,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=DEPTH,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        norm_pix_loss=True,
        layer_norm_eps=1e-6,
    )
    model = vit_mae.ViTMAEForPreTraining(config)
    # Built, not loaded, it leaves the positions at zero: set as its `initialize_weights` does.
    side = SIDE // PATCH
    for positions in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
        width = positions.shape[-1]
        table = vit_mae.build_2d_sinusoidal_position_embedding(side, side, width, cls_token=True)
        positions.data.copy_(table.roll(width // 2, dims=1))
    for name, parameter in model.named_parameters():  # biases of 0 and norms of 1 would hide mistakes
        if "position" not in name and "pos_embed" not in name:
            nn.init.normal_(parameter, std=0.2)
    return model.double().eval()


def ours(theirs: nn.Module) -> tuple[nn.Module, MAEDecoder]:
    encoder = backbone(
        "small_vit", image_size=SIDE, width=32, depth=DEPTH, heads=4, patch_size=PATCH
    ).double()
    decoder = MAEDecoder(32, (SIDE // PATCH,) * 2, PATCH**2 * 3, width=16, depth=DEPTH, heads=2).double()
    source, target = theirs.vit, theirs.decoder
    encoder.patch_embed.load_state_dict(source.embeddings.patch_embeddings.projection.state_dict())
    encoder.cls_token.data.copy_(source.embeddings.cls_token)
    encoder.norm.load_state_dict(source.layernorm.state_dict())
    decoder.mask_token.data.copy_(target.mask_token)
    for name in ("embed", "norm", "pred"):
        mine = {"pred": "predict"}.get(name, name)
        getattr(decoder, mine).load_state_dict(getattr(target, f"decoder_{name}").state_dict())
    copy_layers(encoder.blocks, source.layers)  # type: ignore[arg-type]
    copy_layers(decoder.blocks, target.decoder_layers)
    return encoder.eval(), decoder.eval()


def visible(mask: Tensor) -> Tensor:
    return (mask == 0).nonzero()[:, 1].view(len(mask), -1)


def test_encoder_decoder_and_loss(theirs: nn.Module) -> None:
    encoder, decoder = ours(theirs)
    x = torch.randn(3, 3, SIDE, SIDE, dtype=torch.float64)
    expected = theirs(x)
    keep = visible(expected.mask)
    assert keep.shape == (3, 9)
    prediction = decoder(encoder.tokens(x, keep=keep, prefix=True), keep)
    torch.testing.assert_close(prediction, expected.logits, atol=1e-6, rtol=1e-6)
    loss = masked_mse(prediction, patchify(x, PATCH), expected.mask.bool(), norm_target=True)
    torch.testing.assert_close(loss, expected.loss, atol=1e-6, rtol=1e-6)


def test_positions_and_patches(theirs: nn.Module) -> None:
    encoder, decoder = ours(theirs)
    positions = theirs.vit.embeddings.position_embeddings
    torch.testing.assert_close(encoder.pos_embed, positions[:, 1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(decoder.positions, theirs.decoder.decoder_pos_embed[:, 1:], atol=1e-6, rtol=0)
    assert not positions[:, 0].any()
    x = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    assert torch.equal(patchify(x, PATCH), theirs.patchify(x))
