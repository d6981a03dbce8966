"""The last stage: a UNet conditioned by the text encoder learns to predict the noise in latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from worker.emoji.corpus import SIZE, Scene, stream
from worker.emoji.lessons import Lesson, Lessons, shown, told
from worker.emoji.loop import LossOfStep, Stage
from worker.emoji.settings import Settings
from worker.emoji.text import tokenize

_SNR_LIMIT = 5.0
_WEIGHT_FLOOR = 0.25


def new_scheduler() -> LMSDiscreteScheduler:
    """Stable Diffusion 1.4's noise schedule, solved by the linear multistep method.

    In this small world a caption says nearly everything about a picture, so guidance makes the sampling equation stiff,
    most of all where the noise is high. Stable Diffusion's even spacing in time steps widest there: at guidance 7.5
    with 30 steps the fourth-order solver leaves its region of stability, and pictures burn (with 90 steps they do not).
    The spacing of Karras et al. (2022, equation 5) takes shorter steps at high noise, and is clean with 30.
    """
    scheduler: LMSDiscreteScheduler = LMSDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        steps_offset=1,
        use_karras_sigmas=True,
    )
    return scheduler


def new_unet(settings: Settings) -> UNet2DConditionModel:
    """An untrained UNet over latents (n, 4, 16, 16), with cross-attention at its two lower levels and in the middle."""
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=settings.denoiser_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=settings.denoiser_layers,
        cross_attention_dim=settings.text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    return unet


class Denoiser(nn.Module):
    """UNet and text encoder as one module: ``read`` turns tokens into a context, and calling predicts the noise."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def read(self, tokens: Tensor) -> Tensor:
        """The embeddings (n, 77, width) of ``tokens`` (n, 77)."""
        context: Tensor = self.text_encoder(tokens).last_hidden_state
        return context

    def forward(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """Predict the noise in ``noisy`` (n, 4, 16, 16) at ``timesteps`` (n,), given ``context`` (n or 1, 77, w)."""
        context = context.expand(len(noisy), -1, -1)
        predicted: Tensor = self.unet(noisy, timesteps, encoder_hidden_states=context).sample
        return predicted


def with_plain_attention(denoiser: Denoiser, device: torch.device) -> Denoiser:
    """On CPUs compute attention as plain matrix products, which at these sizes makes a training step a third faster."""
    if device.type == "cpu":
        denoiser.unet.set_attn_processor(AttnProcessor())
        denoiser.text_encoder.set_attn_implementation("eager")
    return denoiser


def denoising_losses(
    stage: Stage[Denoiser],
    tokenizer: CLIPTokenizer,
    latents: Tensor,
    scenes: Sequence[Scene],
    settings: Settings,
    device: torch.device,
) -> LossOfStep:
    """The losses of the denoiser on scaled ``latents`` (count, 4, 16, 16) of ``scenes``.

    Some captions are dropped, which trains the unconditional branch (Ho and Salimans 2022), and some rows are mixes:
    see ``lessons``. The errors are weighted by min(SNR, 5)/SNR (Hang et al. 2023) plus a floor. From the progress
    ``settings.ease_from`` on the guidance is eased: see ``_eased``.
    """
    signal = new_scheduler().alphas_cumprod.to(device)
    latents = latents.to(device)
    empty = tokenize(tokenizer, [""]).to(device)
    lessons = Lessons(scenes, settings)

    def losses(progress: float) -> dict[str, Tensor]:
        rows = torch.randint(len(latents), (stage.plan.batch,), generator=stage.generator).tolist()
        rng = stream(settings.seed + stage.step)  # of the step alone, so that a resumed run goes on alike
        batch = [lessons.draw(row, rng) for row in rows]
        clean = shown(latents, batch)
        timesteps = _draw_timesteps(batch, len(signal), stage.generator).to(device)
        kept = signal[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn(clean.shape, generator=stage.generator).to(device)
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.autocast):
            target = noise
            if progress >= settings.ease_from:
                conditional = torch.tensor([bool(lesson.caption) for lesson in batch], device=device).view(-1, 1, 1, 1)
                eased = _eased(stage.average, noise, noisy, timesteps, empty, settings)
                target = torch.where(conditional, eased, noise)
            context = told(lambda tokens: stage.module.read(tokens.to(device)), tokenizer, batch)
            predicted = stage.module(noisy, timesteps, context)
        error = (predicted.float() - target).square().mean((1, 2, 3))
        return {"loss": (error * _weight(kept.flatten())).mean(), "error": error.mean()}

    return losses


def _draw_timesteps(batch: Sequence[Lesson], count: int, generator: torch.Generator) -> Tensor:
    """A time in 0..``count`` for each row: evenly, but for mixes the later of two, for what they show is settled early.

    Two subjects are told apart in one embedding only where the noise is high; below, the latents themselves show them.
    """
    drawn = torch.randint(count, (2, len(batch)), generator=generator)
    return torch.where(torch.tensor([lesson.other is not None for lesson in batch]), drawn.amax(0), drawn[0])


def _weight(kept: Tensor) -> Tensor:
    """The weight of an error in the noise, for the share of signal variance ``kept``."""
    ratio = kept / (1 - kept)
    return ratio.clamp(max=_SNR_LIMIT) / ratio + _WEIGHT_FLOOR


@torch.no_grad()
def _eased(
    average: Denoiser, noise: Tensor, noisy: Tensor, timesteps: Tensor, empty: Tensor, settings: Settings
) -> Tensor:
    """The noise, drawn towards what the averaged model predicts without a caption.

    The conditional prediction of this small world differs from the unconditional far more than in a model of
    photographs: guidance 2 is already strong. So the conditional branch learns the prediction at a guidance of
    ``guidance_ease`` (below one) instead of one, and guidance g then acts as ease·g, which moves the useful range to
    where Stable Diffusion has it. (The distillation of Meng et al. 2023, turned the other way round.)

    The unconditional prediction does not depend on the conditional one, so that training on, with the same easing from
    its first step, neither adds to the easing nor takes it back.
    """
    unconditional: Tensor = average(noisy, timesteps, average.read(empty)).float()
    return settings.guidance_ease * noise + (1 - settings.guidance_ease) * unconditional
