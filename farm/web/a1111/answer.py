"""The answer to a request for pictures: the pictures in base64, and `info`, which tells how they were made.

It is written picture by picture, so that no more than one of them is held at a time.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from farm.bucket.results import JobResult
from farm.jobs.samplers import KNOWN
from farm.jobs.spec import JobSpec
from farm.pictures.metadata import read_texts
from farm.web.a1111.asked import TextToImage
from farm.web.a1111.tasks import Task
from farm.web.parts import Parts
from farm.web.rendering import made

PARAMETERS = "parameters"
"""The PNG text in which A1111, and the farm for it, writes how a picture was made."""


async def parts(
    site: Parts, asked: TextToImage, task: Task, specs: Sequence[JobSpec], jobs: Sequence[str]
) -> AsyncIterator[str]:
    """The JSON of the answer. `specs` are of all jobs, `jobs` those that are done."""
    results: list[JobResult] = []
    infotexts: list[str] = []
    begin = '{"images": ['
    for job in jobs:
        picture = await made(site, job)
        results.append(picture.result)
        infotexts.append(read_texts(picture.png).get(PARAMETERS, ""))
        if asked.send_images:
            yield f'{begin}"{base64.b64encode(picture.png).decode()}"'
            begin = ", "
    info = json.dumps(_info(asked, task, specs, results, infotexts))
    opening = begin if begin != ", " else ""
    sent = asked.model_dump(mode="json", exclude={"init_images", "mask", "alwayson_scripts"})
    yield f'{opening}], "parameters": {json.dumps(sent)}, "info": {json.dumps(info)}}}'


def _info(
    asked: TextToImage, task: Task, specs: Sequence[JobSpec], results: Sequence[JobResult], infotexts: Sequence[str]
) -> dict[str, Any]:
    """What is said of the pictures; of none where the first is not done, as far as was asked."""
    told = [result.spec for result in results] or list(specs[:1])
    first = told[0]
    seeds = [spec.seed for spec in told]
    return {
        "prompt": asked.prompt,
        "all_prompts": [asked.prompt] * len(told),
        "negative_prompt": asked.negative_prompt,
        "all_negative_prompts": [asked.negative_prompt] * len(told),
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": seeds[0],
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": first.width,
        "height": first.height,
        "sampler_name": KNOWN[first.sampler].title,
        "cfg_scale": first.guidance.scale,
        "steps": first.steps,
        "batch_size": asked.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": first.model,
        "sd_model_hash": results[0].model.sha256[:10] if results and results[0].model.sha256 else None,
        "sd_vae_name": results[0].model.vae if results else None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": getattr(asked, "denoising_strength", None),
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [*infotexts],
        "styles": [],
        "job_timestamp": task.stamp,
        "clip_skip": first.conditioning.clip_skip,
        "is_using_inpainting_conditioning": False,
    }
