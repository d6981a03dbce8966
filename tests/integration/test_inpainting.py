"""A part of a picture redone: from the shell to a worker and back, and made again from what the result says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from farm.client import FarmClient
from tests.integration.conftest import Launcher

Shell = Callable[..., Any]


def pixels_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_only_what_is_masked_is_redone_and_it_is_made_again(
    shell: Shell, launch: Launcher, client: FarmClient, tmp_path: Path
) -> None:
    launch("painter", "--deterministic", model="painter")
    own = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(own).save(tmp_path / "photo.png")
    mask = Image.new("L", (128, 96))
    mask.paste(255, (70, 20, 90, 45))
    mask.save(tmp_path / "mask.png")
    fields = ["--model", "painter", "--steps", "6", "--seed", "3", "--out", "renders", "--json", "--init", "photo.png"]
    ways = {
        "fitted": ["--mask", "mask.png", "--mask-blur", "0", "--width", "128", "--height", "96", "--fill", "noise"],
        "alone": ["--mask", "mask.png", "--mask-blur", "0", "--only-masked", "8", "--sampler", "heun"],
        "grown": ["--outpaint", "left=40,bottom=8", "--strength", "1"],
    }
    is_new = np.asarray(mask) == 255
    for name, options in ways.items():
        answer = shell("submit", "img2img", "a cat", *options, *fields)
        [job] = json.loads(answer.stdout.splitlines()[0])["jobs"]
        file = tmp_path / "renders" / f"{job}.png"
        pixels = pixels_of(file)
        if name == "grown":
            assert pixels.shape == (104, 168, 3)
            pixels = pixels[:96, 40:]
            assert np.array_equal(pixels, own)
        else:
            assert np.array_equal(pixels[~is_new], own[~is_new])
            assert (pixels[is_new] != own[is_new]).any(axis=1).mean() > 0.9
        told = json.loads(shell("rerun", str(file), "--wait", "--json").stdout.splitlines()[-1])
        assert told["same_bytes"] is True, (name, told)
        assert client.result(told["job"]).spec == client.result(job).spec


def test_what_cannot_be_a_mask_is_told_before_anything_is_sent(shell: Shell, picture: Path, tmp_path: Path) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "black.png")
    Image.new("L", (32, 64), 255).save(tmp_path / "narrow.png")
    submit = ("submit", "img2img", "a cat", "--init", str(picture))
    empty = shell(*submit, "--mask", "black.png", code=2).stderr
    assert "farm: --mask: nothing of the picture is redone" in empty and "--invert-mask" in empty
    assert "--mask: the mask has 32×64 pixels" in shell(*submit, "--mask", "narrow.png", code=2).stderr
    assert "--mask: nowhere.png cannot be read" in shell(*submit, "--mask", "nowhere.png", code=2).stderr
    assert "--outpaint: 'up=3' is not SIDE=PIXELS" in shell(*submit, "--outpaint", "up=3", code=2).stderr
    assert "--fill needs a mask" in shell(*submit, "--fill", "noise", code=2).stderr
    assert "--mask and --outpaint need an init" in shell("submit", "txt2img", "x", "--outpaint", "top=8", code=2).stderr
