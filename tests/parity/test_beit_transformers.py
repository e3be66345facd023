"""BEiT's masked forward pass and loss against transformers' with the same weights."""

import warnings

import pytest
import torch
from torch import nn
from transformers_layers import copy_layers

from sslpipe import methods
from sslpipe.losses import masked_token_cross_entropy
from sslpipe.methods.base.method import Method
from sslpipe.networks import backbone
from sslpipe.networks.vit import SmallViT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own
    modeling = pytest.importorskip(
        "transformers.models.beit.modeling_beit", reason="transformers is not installed"
    )

SIDE, PATCH, DEPTH, WORDS = 24, 4, 2, 16


@pytest.fixture
def theirs() -> nn.Module:
    torch.manual_seed(0)
    config = modeling.BeitConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=SIDE,
        patch_size=PATCH,
        use_mask_token=True,
        use_absolute_position_embeddings=False,
        use_relative_position_bias=False,
        use_shared_relative_position_bias=True,
        use_mean_pooling=True,  # then the head's norm is the only one, as in the official code
        layer_scale_init_value=0.1,
        layer_norm_eps=1e-6,
        drop_path_rate=0.0,
        hidden_dropout_prob=0.0,
    )
    model = modeling.BeitForMaskedImageModeling(config)
    for parameter in model.parameters():  # biases of 0 and norms of 1 would hide mistakes
        nn.init.normal_(parameter, std=0.2)
    return model.double().eval()


def ours(theirs: nn.Module) -> Method:
    encoder = backbone(
        "small_vit",
        image_size=SIDE,
        width=32,
        depth=DEPTH,
        heads=4,
        patch_size=PATCH,
        position="relative",
        layer_scale=0.1,
    )
    assert isinstance(encoder, SmallViT)
    assert encoder.pos_bias is not None
    method = methods.build("beit", encoder, {"tokenizer": {"words": WORDS, "width": 8}}).double().eval()
    source = theirs.beit
    encoder.patch_embed.load_state_dict(source.embeddings.patch_embeddings.projection.state_dict())
    encoder.cls_token.data.copy_(source.embeddings.cls_token)  # type: ignore[union-attr]
    encoder.mask_token.data.copy_(source.embeddings.mask_token)
    encoder.pos_bias.data.copy_(source.shared_position_bias.relative_position_bias_table)
    encoder.norm.load_state_dict(theirs.layernorm.state_dict())
    copy_layers(encoder.blocks, source.layers)
    method.head.load_state_dict(theirs.lm_head.state_dict())  # type: ignore[union-attr]
    return method


def test_the_masked_forward_pass_and_the_loss(theirs: nn.Module) -> None:
    method = ours(theirs)
    x = torch.randn(3, 3, SIDE, SIDE, dtype=torch.float64)
    mask, words = torch.rand(3, 36) < 0.4, torch.randint(WORDS, (3, 36))
    expected = theirs(x, bool_masked_pos=mask, labels=words[mask])
    logits = method.head(method.backbone.tokens(x, mask=mask))  # type: ignore[operator]
    torch.testing.assert_close(logits, expected.logits, atol=1e-9, rtol=1e-6)
    loss = masked_token_cross_entropy(logits, words, mask)
    torch.testing.assert_close(loss, expected.loss, atol=1e-9, rtol=1e-6)
