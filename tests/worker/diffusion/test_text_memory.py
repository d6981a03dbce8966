"""A UNet that reads a prompt's memory computes what it computes from the prompt's embedding."""

from __future__ import annotations

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from worker.diffusion.text_memory import remember_text
from worker.models.loader import LoadedModel


@torch.no_grad()
def test_a_memory_stands_for_the_embedding(tiny_model: LoadedModel) -> None:
    rows, timesteps = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0)), torch.tensor([400.0, 3.0])
    embeddings = [tiny_model.prompts.encode(prompt).embedding[0] for prompt in ("a cat", "an otter")]
    memories = [tiny_model.text_memory.of(embedding) for embedding in embeddings]

    expected = tiny_model.unet(rows, timesteps, encoder_hidden_states=torch.stack(embeddings)).sample
    remembered = tiny_model.unet(rows, timesteps, encoder_hidden_states=torch.stack(memories)).sample

    assert memories[0].shape[1] > embeddings[0].shape[1], "keys and values of all layers, not the embedding"
    assert torch.allclose(remembered, expected, atol=1e-5)


@torch.no_grad()
def test_a_model_whose_memories_look_like_embeddings_keeps_to_embeddings() -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        block_out_channels=(16,),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    embedding = torch.ones((77, 32))

    assert remember_text(unet).of(embedding) is embedding
