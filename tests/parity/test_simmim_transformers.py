"""SimMIM's masked forward pass and loss against transformers' ViTForMaskedImageModeling with the same weights."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from transformers_layers import copy_layers

from sslpipe import methods
from sslpipe.losses import masked_l1
from sslpipe.networks import backbone
from sslpipe.networks.patches import patchify, unpatchify
from sslpipe.networks.vit import SmallViT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own
    modeling = pytest.importorskip(
        "transformers.models.vit.modeling_vit", reason="transformers is not installed"
    )

SIDE, PATCH, DEPTH = 24, 4, 2


@pytest.fixture
def theirs() -> nn.Module:
    torch.manual_seed(0)
    config = modeling.ViTConfig(
        hidden_size=32,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=SIDE,
        patch_size=PATCH,
        encoder_stride=PATCH,
        layer_norm_eps=1e-6,
    )
    model = modeling.ViTForMaskedImageModeling(config)
    for parameter in model.parameters():  # biases of 0 and norms of 1 would hide mistakes
        nn.init.normal_(parameter, std=0.2)
    return model.double().eval()


def pixels_first(parameter: Tensor) -> Tensor:
    """Rows in pixel shuffle's order channel, y, x → ours, y, x, channel."""
    rows = parameter.flatten(1) if parameter.ndim > 1 else parameter[:, None]
    return rows.unflatten(0, (3, PATCH**2)).transpose(0, 1).flatten(0, 1).view(parameter.shape)


def test_the_masked_forward_pass_and_the_loss(theirs: nn.Module) -> None:
    encoder = backbone(
        "small_vit", image_size=SIDE, width=32, depth=DEPTH, heads=4, patch_size=PATCH, position="learned"
    )
    assert isinstance(encoder, SmallViT)
    assert encoder.pos_embed is not None
    method = methods.build("simmim", encoder).double().eval()
    embeddings = theirs.vit.embeddings
    encoder.patch_embed.load_state_dict(embeddings.patch_embeddings.projection.state_dict())
    encoder.mask_token.data.copy_(embeddings.mask_token)
    encoder.pos_embed.data.copy_(embeddings.position_embeddings[:, 1:])
    encoder.cls_token.data.copy_(embeddings.cls_token + embeddings.position_embeddings[:, :1])  # type: ignore[union-attr]
    encoder.norm.load_state_dict(theirs.vit.layernorm.state_dict())
    copy_layers(encoder.blocks, theirs.vit.layers)
    convolution = theirs.decoder[0]
    method.head.weight.data.copy_(pixels_first(convolution.weight)[:, :, 0, 0])  # type: ignore[union-attr, operator]
    method.head.bias.data.copy_(pixels_first(convolution.bias))  # type: ignore[union-attr, operator]

    x, mask = torch.randn(3, 3, SIDE, SIDE, dtype=torch.float64), torch.rand(3, 36) < 0.6
    expected = theirs(x, bool_masked_pos=mask)
    y = method.head(encoder.tokens(x, mask=mask))  # type: ignore[operator]
    torch.testing.assert_close(unpatchify(y, PATCH), expected.reconstruction, atol=1e-9, rtol=1e-6)
    # Theirs adds 1e-5 to the count of hidden pixels.
    torch.testing.assert_close(masked_l1(y, patchify(x, PATCH), mask), expected.loss, atol=0, rtol=1e-6)
