"""A UNet that reads a prompt's memory computes what it computes from the prompt's embedding."""

from __future__ import annotations

import gc
from weakref import ref

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from farm.jobs.spec import WeightedPrompt
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.cross_attention import cache_cross_attention
from worker.diffusion.prompts import Encoded
from worker.models.model import LoadedModel


@torch.no_grad()
def test_a_memory_stands_for_the_embedding(tiny_model: LoadedModel) -> None:
    rows, timesteps = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0)), torch.tensor([400.0, 3.0])
    prompts = [tiny_model.prompts.encode(prompt) for prompt in ("a cat", "an otter")]
    embeddings = torch.cat([prompt.embedding for prompt in prompts])
    memories = Conditioning.stacked([tiny_model.conditioned(prompt) for prompt in prompts])

    expected = tiny_model.unet(rows, timesteps, encoder_hidden_states=embeddings).sample
    remembered = tiny_model.unet(rows, timesteps, **memories.arguments).sample

    assert memories.text.shape[2] > embeddings.shape[2], "keys and values of all layers, not the embedding"
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
    embedding = torch.ones((1, 77, 32))

    assert torch.equal(cache_cross_attention(unet).of(Encoded(embedding)), embedding)


def test_jobs_that_read_the_same_share_one_memory_for_as_long_as_one_of_them_has_it(tiny_model: LoadedModel) -> None:
    memory, prompts = tiny_model.cross_attention, tiny_model.prompts
    first = memory.of(prompts.encode("a llama"))
    bits, seen = first.clone(), ref(first)

    assert memory.of(prompts.mix([WeightedPrompt(text="a llama")])) is first
    assert memory.of(prompts.encode("an otter")) is not first
    assert memory.of(prompts.mix([WeightedPrompt(text="a llama", weight=0.5)])) is not first
    del first
    gc.collect()
    assert seen() is None, "nobody holds it any more"
    assert torch.equal(memory.of(prompts.encode("a llama")), bits)
