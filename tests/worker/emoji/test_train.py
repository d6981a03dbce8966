"""The training: every stage runs, goes on from its checkpoint, and leaves a pipeline that diffusers loads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import Tensor, nn

from tests.worker.emoji.conftest import needs_font
from worker.emoji.autoencoder import SCALING_FACTOR, encode, new_autoencoder, normalise, preview_map, reconstruct
from worker.emoji.corpus import draw_caption, stream
from worker.emoji.dataset import held_out, scene_number, scenes
from worker.emoji.drawing import Pull, Start, draw, load
from worker.emoji.loop import Stage, annealed
from worker.emoji.settings import StagePlan, micro, on_cpu, on_cuda, refined
from worker.emoji.text import MAX_TOKENS, new_tokenizer, tokenize
from worker.emoji.train import main, refine, train

CPU = torch.device("cpu")


def stage_of(directory: Path, steps: int) -> Stage[nn.Linear]:
    torch.manual_seed(1)
    plan = StagePlan(steps, minutes=1.0, batch=1, learning_rate=1e-2)
    return Stage("line", nn.Linear(2, 1), plan, directory, 0, CPU, ema_decay=0.9, checkpoint_minutes=0.0)


def run_until(stage: Stage[nn.Linear], last: int | None = None) -> Tensor:
    def losses(_progress: float) -> dict[str, Tensor]:
        if stage.step == last:
            raise KeyboardInterrupt
        inputs = torch.randn(8, 2, generator=stage.generator)
        return {"loss": (stage.module(inputs) - inputs.sum(1, keepdim=True)).square().mean()}

    return stage.run(losses).weight.clone()


def test_a_stage_that_is_interrupted_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = run_until(stage_of(tmp_path / "whole", 12))
    with pytest.raises(KeyboardInterrupt):
        run_until(stage_of(tmp_path / "parts", 12), last=5)
    resumed = stage_of(tmp_path / "parts", 12)
    assert resumed.step == 5
    assert torch.equal(run_until(resumed), whole)


def test_a_stage_that_is_done_does_nothing(tmp_path: Path) -> None:
    first = run_until(stage_of(tmp_path, 3))
    again = stage_of(tmp_path, 3)
    assert again.progress == 1
    assert torch.equal(run_until(again, last=3), first)


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    assert 0 < annealed(0) < 0.1
    assert annealed(0.03) == pytest.approx(1, abs=1e-3)
    assert annealed(1) == pytest.approx(0, abs=1e-6)


@pytest.mark.long
def test_a_tokenizer_knows_every_caption_word_as_one_token_and_spells_others() -> None:
    settings = on_cpu()
    tokenizer, rng = new_tokenizer(settings), stream(5)
    for scene in scenes(dataclasses.replace(settings, renders=300)):
        text = draw_caption(scene, rng).capitalize()
        assert len(tokenizer(text).input_ids) == 2 + len(text.replace(",", " ,").split())
    assert len(tokenizer("xylophone").input_ids) > 2 + 1


def test_captions_are_padded_to_clips_length_with_the_end_token() -> None:
    tokenizer = new_tokenizer(micro())
    tokens = tokenize(tokenizer, ["", "a banana"])
    assert tokens.shape == (2, MAX_TOKENS)
    assert (tokens[0, 1:] == tokenizer.eos_token_id).all()
    assert tokens.max() == tokenizer.eos_token_id


def test_scenes_are_numbered() -> None:
    settings = micro()
    assert scenes(settings) == [scene_number(index, settings)[0] for index in range(settings.renders)]
    assert scenes(settings) != scenes(dataclasses.replace(settings, seed=1))


@pytest.mark.parametrize("settings", [on_cpu(10), on_cuda(10), micro()])
def test_recipes_keep_to_their_time(settings: object) -> None:
    plans = [getattr(settings, stage) for stage in ("autoencoder", "text", "denoiser")]
    assert sum(plan.minutes for plan in plans) <= 10


@needs_font
def test_normalised_latents_have_mean_zero_and_variance_one_and_decode_as_before() -> None:
    settings = micro()
    torch.manual_seed(0)
    autoencoder = new_autoencoder(settings).eval()
    pictures = held_out(6, settings)
    before = reconstruct(autoencoder, pictures, CPU)
    latents = normalise(autoencoder, encode(autoencoder, pictures, CPU))
    assert torch.allclose(latents, encode(autoencoder, pictures, CPU), atol=1e-3)
    scaled = latents * SCALING_FACTOR
    assert torch.allclose(scaled.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(scaled.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    assert np.abs(before.astype(int) - reconstruct(autoencoder, pictures, CPU)).max() <= 1


@needs_font
def test_the_preview_map_recovers_a_linear_relation() -> None:
    pictures = held_out(6, micro())
    colors = torch.from_numpy(pictures.reshape(6, 16, 8, 16, 8, 3).mean((2, 4)) / 255).float().permute(0, 3, 1, 2)
    latents = torch.cat([colors, torch.randn(6, 1, 16, 16)], 1) / SCALING_FACTOR
    fitted = preview_map(latents, pictures)
    own_pixel = torch.zeros(3, 4, 3, 3)
    own_pixel[:, :3, 1, 1] = torch.eye(3)
    assert torch.allclose(fitted.kernel, own_pixel, atol=1e-3)
    assert torch.allclose(fitted.bias, torch.zeros(3), atol=1e-3)


@pytest.mark.long
@needs_font
def test_a_training_leaves_a_pipeline_that_draws(micro_run: Path) -> None:
    model = micro_run / "model"
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    assert pipeline.unet.dtype == pipeline.vae.dtype == pipeline.text_encoder.dtype == torch.float32
    assert type(pipeline.scheduler).__name__ == "LMSDiscreteScheduler"
    assert pipeline.scheduler.config.use_karras_sigmas
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a banana", num_inference_steps=2, height=128, width=128).images[0]
    assert picture.size == (128, 128)
    assert set(json.loads((model / "preview.json").read_text(encoding="utf-8"))) == {"kernel", "bias"}
    record = json.loads((model / "training.json").read_text(encoding="utf-8"))
    assert record["subjects"] == ["red apple", "green apple", "banana"]
    assert record["losses"]["denoiser"][-1]["step"] == micro().denoiser.steps


@pytest.mark.long
@needs_font
def test_a_finished_training_changes_nothing_when_run_again(micro_run: Path) -> None:
    weights = micro_run / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    train(micro(), micro_run, CPU)
    assert weights.read_bytes() == before


@pytest.mark.long
@needs_font
def test_a_refinement_keeps_the_autoencoder_and_ends_as_if_it_had_not_been_interrupted(
    micro_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = micro_run / "model"
    numbers = json.loads((finished / "training.json").read_text(encoding="utf-8"))["settings"]
    monkeypatch.setattr("worker.emoji.train.SAMPLE_CAPTIONS", ("a banana",))  # drawn with every checkpoint
    monkeypatch.setattr("worker.emoji.train.draw", partial(draw, steps=2))
    recipe = refined(numbers)
    few = dataclasses.replace(recipe.denoiser, batch=4)
    settings = dataclasses.replace(recipe, denoiser=few, autocast=False, mixes=0.5)
    whole = refine(finished, tmp_path / "whole", settings, CPU)
    with monkeypatch.context() as patched:
        patched.setattr(Stage, "_follow", _interrupted_at(3))
        with pytest.raises(KeyboardInterrupt):
            refine(finished, tmp_path / "parts", dataclasses.replace(settings, checkpoint_minutes=0.0), CPU)
    parts = refine(finished, tmp_path / "parts", settings, CPU)

    def weights(model: Path, part: str) -> bytes:
        [path] = (model / part).glob("*.safetensors")
        return path.read_bytes()

    assert weights(whole, "vae") == weights(finished, "vae")
    for part in ("unet", "text_encoder"):
        assert weights(whole, part) != weights(finished, part)
        assert weights(parts, part) == weights(whole, part)
        config = Path(part) / "config.json"
        assert (whole / config).read_text(encoding="utf-8") == (finished / config).read_text(encoding="utf-8")
    record = json.loads((whole / "training.json").read_text(encoding="utf-8"))
    assert record["settings"]["mixes"] == 0.5
    assert record["before"]["settings"]["mixes"] == 0
    assert draw(load(whole), ["a banana in a top hat"], steps=2)[0].size == (128, 128)


def _interrupted_at(last: int) -> Callable[[Stage[nn.Module]], None]:
    """The stage's own averaging, until a step at which the run is stopped."""
    follow = Stage._follow

    def interrupted(stage: Stage[nn.Module]) -> None:
        if stage.step == last:
            raise KeyboardInterrupt
        follow(stage)

    return interrupted


def test_a_refinement_is_told_what_it_starts_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--refine", str(tmp_path / "nothing"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert "no training.json" in capsys.readouterr().err


@pytest.mark.long
@needs_font
def test_the_model_is_a_pipeline_of_diffusers_that_draws_the_same(micro_run: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(micro_run / "model").to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a banana",
        num_inference_steps=5,
        guidance_scale=4.0,
        height=128,
        width=128,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    ours = draw(load(micro_run / "model"), ["a banana"], steps=5, guidance=4.0, seeds=3)[0]
    assert np.abs(np.asarray(theirs).astype(int) - np.asarray(ours)).max() <= 1


@pytest.mark.long
@needs_font
def test_drawing_in_every_mode(micro_run: Path) -> None:
    model = load(micro_run / "model")
    plain = draw(model, ["a banana"], steps=3)[0]
    late = draw(model, ["a banana"], steps=3, start=Start(plain, 2), pull=Pull(1.0))[0]
    [mixed] = draw(model, [[("a banana", 0.5), ("a red apple", 0.5)]], steps=3)
    assert late.size == mixed.size == plain.size


def test_the_command_line_needs_a_directory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train"])
    with pytest.raises(SystemExit):
        main()
    assert "--out" in capsys.readouterr().err
