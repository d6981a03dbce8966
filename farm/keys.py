"""Names of jobs, batches, models and workers, and the object keys made of them. No key is built anywhere else.

An id is checked before it becomes part of a key, so that no id can leave its prefix.
"""

from __future__ import annotations

import re
import secrets
import time

from farm.errors import InvalidInput

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as its number does, no i l o u
_BATCH_ID = re.compile(r"[0-9a-hjkmnp-tv-z]{16}")
_JOB_ID = re.compile(r"([0-9a-hjkmnp-tv-z]{16})-([0-9]{4,6})")
_ID_IN_TEXT = re.compile(r"(?<![0-9a-z])[0-9a-hjkmnp-tv-z]{16}(-[0-9]{4,6})?(?![0-9a-z-])")
_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LORA_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORKER_ID = re.compile(r"(.+)-[0-9a-f]{4}", re.DOTALL)
_MANIFEST = ".json"
_OBJECT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}(/[a-z0-9][a-z0-9._-]{0,99})?")

MAX_ATTEMPT = 999_999_999

BUILT_IN_MODELS = ("emoji", "sd14")
"""Models that every worker knows by name alone; any other needs a source."""

WEIGHTS = ".safetensors"
PICKLED_WEIGHTS = (".bin", ".ckpt", ".pt", ".pth")
"""How files of weights end, in any letter case: those that are read, and those that could run code and never are."""

IMAGE_EXTENSIONS = ("png", "jpeg", "webp")

BATCHES = "batches/"
"""Where the manifests of all batches are."""


def new_batch_id() -> str:
    """16 characters that sort by creation time: 45 bits of milliseconds, then 35 random bits."""
    number = (time.time_ns() // 1_000_000) << 35 | secrets.randbits(35)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(75, -1, -5))


def is_batch_id(text: str) -> bool:
    return _BATCH_ID.fullmatch(text) is not None


def is_job_id(text: str) -> bool:
    return _JOB_ID.fullmatch(text) is not None


def id_in(text: str) -> str | None:
    """The id of a job or a batch in a text such as the path of a picture: `0kz3…-0003` in `renders/0kz3…-0003.png`."""
    found = _ID_IN_TEXT.search(text)
    return found[0] if found else None


def batch_id(text: str) -> str:
    """`text` itself if it is a batch id. Raises `InvalidInput`."""
    if not is_batch_id(text):
        raise InvalidInput(f"{text!r:.60} is not a batch id", hint="'farm list' shows them")
    return text


def job_id(text: str) -> str:
    """`text` itself if it is a job id. Raises `InvalidInput`."""
    if not is_job_id(text):
        raise InvalidInput(f"{text!r:.60} is not a job id", hint="'farm list' shows them")
    return text


def job_in_batch(batch: str, index: int) -> str:
    """The id of the job at `index` (from 0) in a batch; ids of one batch sort by index up to 10,000 jobs."""
    return f"{batch_id(batch)}-{index:04d}"


def batch_of(job: str) -> str:
    """The batch a job id belongs to."""
    return job_id(job).partition("-")[0]


def new_worker_id(name: str) -> str:
    """The id of a worker's process: what the worker is called, and what tells this process from others called so."""
    return f"{name}-{secrets.token_hex(2)}"


def worker_name(id: str) -> str:
    """What the worker with this id is called, however often it is started again."""
    found = _WORKER_ID.fullmatch(id)
    return found[1] if found else id


def model_name(text: str) -> str:
    """`text` itself if it can name a model (and so a queue). Raises `InvalidInput`."""
    if not _MODEL_NAME.fullmatch(text):
        raise InvalidInput(
            f"{text!r:.80} cannot name a model",
            field="model",
            hint="use up to 64 of a-z 0-9 . _ - and start with a letter or digit",
        )
    return text


def lora_name(text: str) -> str:
    """`text` itself if it can name a LoRA. Raises `InvalidInput`.

    Files of LoRAs are called so, capitals included, and prompts that others wrote name them as they are called.
    """
    if not _LORA_NAME.fullmatch(text):
        raise InvalidInput(
            f"{text!r:.120} cannot name a LoRA",
            hint="use up to 100 of a-z A-Z 0-9 . _ - and start with a letter, a digit or _",
        )
    return text


# Objects in the bucket

IDENTITY = "farm/identity.json"
"""The bucket's own random id, by which a ledger knows it."""

CHECKPOINT = "checkpoint.safetensors"


def init_image(sha256: str, extension: str) -> str:
    if not _SHA256.fullmatch(sha256) or extension not in IMAGE_EXTENSIONS:
        raise InvalidInput(f"{sha256!r:.80}.{extension!r:.10} does not name an init image", field="init")
    return f"inputs/{sha256}.{extension}"


def batch_manifest(batch: str) -> str:
    return f"{BATCHES}{batch_id(batch)}.json"


def forgotten(batch: str) -> str:
    """Which jobs of a batch were forgotten, and are not to be brought back."""
    return f"forgotten/{batch_id(batch)}.json"


def job_prefix(job: str) -> str:
    return f"jobs/{job_id(job)}/"


def attempt_object(job: str, attempt: int, name: str) -> str:
    """The key of one of an attempt's objects, such as `image.png` or `trace/0003.jpeg`."""
    if not _OBJECT_NAME.fullmatch(name):
        raise InvalidInput(f"{name!r:.80} cannot name an object")
    if not 0 <= attempt <= MAX_ATTEMPT:
        raise InvalidInput(f"{attempt:g} cannot be an attempt's number")
    return f"{job_prefix(job)}{attempt:d}/{name}"


def attempt_result(job: str, attempt: int) -> str:
    """An attempt's own `result.json`, the last object it writes; the ledger names the one that counts."""
    return attempt_object(job, attempt, "result.json")


def checkpoint(job: str, attempt: int) -> str:
    """What an attempt has done so far, for the next one to go on from."""
    return attempt_object(job, attempt, CHECKPOINT)


def attempt_log(job: str, attempt: int) -> str:
    """The last lines that a worker logged of an attempt."""
    return attempt_object(job, attempt, "log.json")


def preview(job: str) -> str:
    """How a running job looks, whichever attempt it is, while somebody looks at it."""
    return f"{job_prefix(job)}preview.png"


def result(job: str) -> str:
    """The winning attempt's `result.json` again, where those who know only the bucket look for it."""
    return f"{job_prefix(job)}result.json"


def kernels(identity: str) -> str:
    """Compiled kernels that workers share, by the SHA-256 of all that they depend on."""
    if not _SHA256.fullmatch(identity):
        raise InvalidInput(f"{identity!r:.80} does not name kernels")
    return f"kernels/{identity}"


MODEL_FILE, MODEL_CONFIG, MODEL_VAE = "model.safetensors", "config", "vae.safetensors"
"""What a checkpoint in one file is called among a model's files, the folder that says how to put it together, and the
file whose autoencoder takes the place of the model's own."""

MODELS = "models/"
"""Below it lie the models that the farm keeps: a manifest each, and what is in their files."""

MODEL_BLOBS = "models/blobs/"


LORAS, LORA_BLOBS = "loras/", "loras/blobs/"
"""The same of LoRAs."""


def model_manifest(name: str) -> str:
    """Which files a model of the farm's consists of: the last object that adding one writes."""
    return f"{MODELS}{model_name(name)}{_MANIFEST}"


def model_of_manifest(key: str) -> str | None:
    """The model whose manifest has this key, or None if it is no manifest's."""
    return _name_in(key, MODELS, _MODEL_NAME)


def model_blob(sha256: str) -> str:
    """What is in a file of one model or of several, by its SHA-256."""
    return f"{MODEL_BLOBS}{_sha256(sha256, 'a file of a model')}"


def lora_manifest(name: str) -> str:
    """What the farm has under the name of a LoRA: the last object that adding one writes."""
    return f"{LORAS}{lora_name(name)}{_MANIFEST}"


def lora_of_manifest(key: str) -> str | None:
    """The LoRA whose manifest has this key, or None if it is no manifest's."""
    return _name_in(key, LORAS, _LORA_NAME)


def lora_blob(sha256: str) -> str:
    """What is in the file of a LoRA, by its SHA-256."""
    return f"{LORA_BLOBS}{_sha256(sha256, 'the file of a LoRA')}"


def _name_in(key: str, prefix: str, names: re.Pattern[str]) -> str | None:
    name = key.removeprefix(prefix).removesuffix(_MANIFEST)
    return name if names.fullmatch(name) and key == f"{prefix}{name}{_MANIFEST}" else None


def _sha256(text: str, what: str) -> str:
    if not _SHA256.fullmatch(text):
        raise InvalidInput(f"{text!r:.80} does not name {what}")
    return text
