"""What is taken of a model on this machine, and what is refused without PyTorch having a look."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, safe_open

from farm.client import lora_files
from farm.client.given import GivenFile
from farm.client.headers import read_header
from farm.client.model_files import look_at
from farm.errors import InvalidInput
from farm.layouts import WITH_SECOND_ENCODER
from tests.models_on_disk import LABELS, ORIGINAL, checkpoint, write_folder, write_json, write_weights

LOADED = {
    *("model_index.json", "scheduler/scheduler_config.json"),
    *("tokenizer/vocab.json", "tokenizer/tokenizer_config.json", "tokenizer/merges.txt"),
    *("unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
    *("vae/config.json", "vae/diffusion_pytorch_model.safetensors"),
    *("text_encoder/config.json", "text_encoder/model.safetensors"),
}


@pytest.mark.parametrize(("width", "kind"), [(768, "sd1"), (1024, "sd2"), (2048, "sdxl"), (32, "sd")])
def test_a_folder_is_taken_with_what_is_loaded_of_it(tmp_path: Path, width: int, kind: str) -> None:
    folder = write_folder(tmp_path / "model", width=width)
    write_json(folder / "farm.json", {"guidance": 4})
    write_json(folder / "notes.json", ["not the farm's"])
    write_json(folder / "safety_checker" / "config.json", {})
    write_weights(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", {"x": (1,)})
    write_weights(folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors", {"x": (1,)})
    write_weights(folder / "old.safetensors", {"x": (1,)})
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never opened")

    model = look_at(str(folder))

    assert (model.layout, model.kind, model.source) == ("folder", kind, str(folder))
    assert set(model.files) == {*LOADED, "farm.json"}
    assert all(path == folder / name for name, path in model.files.items())


@pytest.mark.parametrize("mark", ["", ".fp16"])
@pytest.mark.parametrize("index", ["safetensors.index{}.json", "{}safetensors.index.json"])
def test_shards_come_with_their_index(tmp_path: Path, mark: str, index: str) -> None:
    unet = write_folder(tmp_path / "model") / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    stem = "diffusion_pytorch_model"
    named = f"{stem}." + index.format(mark if index.startswith("safetensors") else mark.lstrip(".") + "." * bool(mark))
    shards = {f"{stem}-0000{number}-of-00002{mark}.safetensors" for number in (1, 2)}
    write_json(unet / named, {"weight_map": {shard: shard for shard in shards}})
    for shard in shards:
        write_weights(unet / shard, {shard: (1,)})
    assert {name for name in look_at(str(unet.parent)).files if name.startswith("unet/diff")} == {
        f"unet/{name}" for name in (named, *shards)
    }


def test_half_precision_is_taken_where_there_is_no_full_one(tmp_path: Path) -> None:
    unet = write_folder(tmp_path / "model") / "unet"
    full = unet / "diffusion_pytorch_model.safetensors"
    full.rename(unet / "diffusion_pytorch_model.fp16.safetensors")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in look_at(str(unet.parent)).files


def test_links_of_the_hub_s_cache_are_followed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "vae").rename(tmp_path / "blobs")
    (folder / "vae").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (folder / "vae" / path.name).symlink_to(path)
    assert set(look_at(str(folder)).files) == LOADED


def test_a_checkpoint_is_taken_with_the_configuration_that_is_named(tmp_path: Path) -> None:
    file = write_weights(tmp_path / "mine.SafeTensors", checkpoint(1024))
    alone = look_at(str(file))
    assert (alone.layout, alone.kind, dict(alone.files)) == ("file", "sd2", {"model.safetensors": file})

    folder = write_folder(tmp_path / "config")
    both = look_at(f"{file}#config={folder}")
    assert set(both.files) == {"model.safetensors", *(f"config/{name}" for name in LOADED if "safetensors" not in name)}
    assert both.source == f"{file}#config={folder}"


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
def test_what_is_said_besides_is_kept(tmp_path: Path, prefix: str) -> None:
    vae = write_weights(tmp_path / "much better.safetensors", {f"{prefix}decoder.conv_in.weight": (8, 8)})
    file = write_weights(tmp_path / "mine.safetensors", checkpoint(1024))
    found = look_at(f"{file}#prediction=v#ztsnr#vae={vae}")
    assert found.options == {"prediction": "v", "ztsnr": "", "vae": "much better.safetensors"}
    assert dict(found.files) == {"model.safetensors": file, "vae.safetensors": vae}
    assert found.source == f"{file}#prediction=v#ztsnr#vae={vae}"

    folder = write_folder(tmp_path / "model")
    found = look_at(f"{folder}#vae={vae}")
    assert set(found.files) == LOADED - {"vae/diffusion_pytorch_model.safetensors"} | {"vae.safetensors"}
    assert (found.options, look_at(str(folder)).options) == ({"vae": "much better.safetensors"}, {})


def test_only_what_predicts_v_begins_at_a_ratio_of_zero(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "noise")
    of_v = write_folder(tmp_path / "v")
    write_json(of_v / "scheduler" / "scheduler_config.json", {"prediction_type": "v_prediction"})
    plain = write_weights(tmp_path / "plain.safetensors", checkpoint(768))
    marked = write_weights(tmp_path / "marked.safetensors", {**checkpoint(768), "v_pred": (0,)})
    told = write_weights(
        tmp_path / "told.safetensors", checkpoint(768), metadata={"modelspec.prediction_type": "v_prediction"}
    )
    either = write_weights(tmp_path / "either.safetensors", checkpoint(1024))

    for source in (
        folder,
        f"{of_v}#prediction=epsilon",
        plain,
        f"{plain}#config={folder}",
        f"{marked}#prediction=epsilon",
    ):
        with pytest.raises(InvalidInput, match=r"ratio of zero, for it predicts noise \(add #prediction=v if it"):
            look_at(f"{source}#ztsnr")
    for source in (of_v, f"{folder}#prediction=v", marked, told, f"{plain}#config={of_v}", either):
        assert "ztsnr" in look_at(f"{source}#ztsnr").options


def cut_short(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def a_pointer(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_text(text)


def only_pickled(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    path.rename(path.with_name("pytorch_model.bin"))


def without(*files: str) -> Callable[[Path], None]:
    """The folders of these files go with the last in them."""

    def take(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()
            if not any((folder / file).parent.iterdir()):
                (folder / file).parent.rmdir()

    return take


def holding(file: str, **content: Any) -> Callable[[Path], object]:
    """A file of JSON holds this."""
    return lambda folder: write_json(folder / file, content)


def naming(**parts: Any) -> Callable[[Path], object]:
    """Another index; None takes a part out."""

    def name(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text()) | parts
        write_json(folder / "model_index.json", {key: value for key, value in index.items() if value is not None})

    return name


def of_sdxl(folder: Path) -> None:
    write_json(folder / "unet" / "config.json", {"_class_name": "UNet2DConditionModel", **WITH_SECOND_ENCODER})


def of_half_sdxl(folder: Path) -> None:
    of_sdxl(folder)
    second = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
    naming(**second, tokenizer_2=["transformers", "CLIPTokenizerFast"])(folder)


def sharded(index: object) -> Callable[[Path], None]:
    def shard(folder: Path) -> None:
        whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
        whole.rename(whole.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
        write_json(folder / "unet" / "diffusion_pytorch_model.safetensors.index.json", index)

    return shard


SHARD = "diffusion_pytorch_model-0000{}-of-00002.safetensors"
TOKENIZER = tuple(f"tokenizer/{name}" for name in ("vocab.json", "merges.txt", "tokenizer_config.json"))
SCHEDULER = "scheduler/scheduler_config.json"


def of_another_architecture(folder: Path) -> None:
    write_json(folder / "model_index.json", {"_class_name": "FluxPipeline", "transformer": ["diffusers", "Flux"]})


def of_an_autoencoder_made_small(folder: Path) -> None:
    write_json(folder / "vae" / "config.json", {"_class_name": "AutoencoderTiny"})


def of_a_page(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("<html>")


def of_half_a_page(folder: Path) -> None:
    (folder / "vae" / "config.json").write_text("{")


def a_pointer_for_words(folder: Path) -> None:
    (folder / "tokenizer" / "merges.txt").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    )


def of_weights_by_another_name(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("mine.safetensors"))


REFUSED: dict[Callable[[Path], object], str] = {
    cut_short: r"unet/diffusion_pytorch_model.safetensors is cut short or damaged.*fetch it again",
    a_pointer: r"vae/diffusion_pytorch_model.safetensors is a pointer of Git LFS, not the file itself .*git lfs pull",
    only_pickled: r"has only pickled weights in text_encoder \(pytorch_model.bin\), which can run code",
    without(SCHEDULER): r"model has no scheduler/scheduler_config.json \(fetch it again\)",
    without(*TOKENIZER): r"model has no tokenizer/tokenizer.json \(or vocab.json and merges.txt\) \(",
    without("tokenizer/merges.txt"): r"model has no tokenizer/tokenizer.json \(or vocab.json and merges.txt\) \(",
    without(SCHEDULER, "vae/config.json"): r"has no vae/config.json and no scheduler/scheduler_config.json \(",
    without("unet/config.json"): r"model has no unet/config.json \(",
    without("text_encoder/model.safetensors"): r"has no .safetensors weights in text_encoder \(",
    holding("farm.json", guidance="lots"): r"farm.json is malformed: could not convert string to float: 'lots'",
    holding("farm.json", loss_scale=1e400): r"farm.json is malformed: a loss_scale of inf is not between 0 and 1000",
    holding("farm.json", crop="x"): r"farm.json is malformed: crop: ",
    holding(SCHEDULER, _class_name="FlowMatchEulerDiscreteScheduler"): r"is trained by flow matching \(use a text-to",
    holding(SCHEDULER, use_flow_sigmas=True): r"is trained by flow matching",
    holding(SCHEDULER, num_train_timesteps=-4): r"says that it was trained on -4 noise levels",
    holding(SCHEDULER, num_train_timesteps="x"): r"says that it was trained on 'x' noise levels",
    naming(tokenizer=None): r"has no tokenizer in its model_index.json \(use a text-to-image model",
    naming(vae=[None, None]): r"has no vae in its model_index.json",
    naming(text_encoder=["transformers", "T5EncoderModel"]): r"has as its text_encoder T5EncoderModel, not CLIPTextMod",
    naming(text_encoder=[None, None], requires_aesthetics_score=True): r"is the refiner of SDXL.*use the base model",
    of_sdxl: r"has no text_encoder_2 in its model_index.json",
    of_half_sdxl: r"has no text_encoder_2/config.json and no tokenizer_2/tokenizer.json",
    of_an_autoencoder_made_small: r"has as its vae AutoencoderTiny, not AutoencoderKL",
    of_another_architecture: r"has no unet in its model_index.json: it is a FluxPipeline",
    sharded({"weight_map": {}}): r"safetensors.index.json is not an index of shards: it names 0 shards",
    sharded({"weight_map": {"x": SHARD.format(2)}}): r"lacks 1 of 1 shards in unet, such as .*-00002-of-00002",
    sharded({"weight_map": {"x": "../vae/x.safetensors"}}): r"has an index in unet that names '../vae/x.safetensors'",
    sharded({"weight_map": {"x": SHARD.format(1)}}): r"lacks 'x' in unet/.*00001-of-00002.*, which its index says",
    of_a_page: r"unet/config.json is a web page, not the file itself",
    of_half_a_page: r"vae/config.json is not JSON: .*fetch it again",
    a_pointer_for_words: r"tokenizer/merges.txt is a pointer of Git LFS, not the file itself .*git lfs pull",
    of_weights_by_another_name: r"has no diffusion_pytorch_model.safetensors in vae, but mine.safetensors \(w",
    lambda folder: (folder / "model_index.json").unlink(): r"is no model: it has no model_index.json",
    lambda folder: write_json(folder / "model_index.json", []): r"model_index.json is not a JSON object",
}


@pytest.mark.parametrize("damage", REFUSED)
def test_what_is_no_model_is_told(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    folder = write_folder(tmp_path / "model")
    damage(folder)
    with pytest.raises(InvalidInput, match=f"SOURCE: .*{REFUSED[damage]}"):
        look_at(str(folder))


def test_a_file_that_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    lora = write_weights(tmp_path / "lora.safetensors", {"lora_unet_mid.lora_down.weight": (1, 1)})
    unet = write_weights(tmp_path / "unet.safetensors", {"down_blocks.0.weight": (1, 1)})
    empty = write_weights(tmp_path / "empty.safetensors", {})
    (tmp_path / "old.ckpt").touch()
    for source, said in {
        str(empty): "empty.safetensors has no weights .*fetch it again",
        str(lora): "is a LoRA, and no whole model",
        str(unet): "its weights have names such as 'down_blocks.0.weight'",
        str(tmp_path / "old.ckpt"): "is pickled, which can run code",
        str(tmp_path / "nowhere"): "there is no folder or .safetensors file",
        "owner/name@main": "a model of the hub is downloaded first",
        f"{lora}x": "there is no folder or .safetensors file",
        f"{lora}#vae={unet}": "unet.safetensors holds no autoencoder: .*names such as 'down_blocks.0.weight'.*#vae=",
        f"{lora}#vae={tmp_path}/nowhere.safetensors": "there is no .safetensors file .*/nowhere.safetensors",
        f"{lora}#vae={tmp_path}/old.ckpt": "old.ckpt is pickled, which can run code, and is never opened",
        f"{lora}#prediction=x": "a model cannot predict 'x' .*prediction=v or =epsilon",
        f"{lora}#colour=red": "has the option 'colour', which no source has",
    }.items():
        with pytest.raises(InvalidInput) as caught:
            look_at(source)
        assert re.search(said, str(caught.value)), caught.value


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 8,
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (16).to_bytes(8, "little") + b'{"x":{"shape":1}}',
        (46).to_bytes(8, "little") + b'{"x":{"shape":[1e999],"data_offsets":[0, 0]}}  ',
        (40_000).to_bytes(8, "little") + b"[" * 40_000,
    ],
)
def test_headers_of_strangers_end_in_one_line(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(data)
    with pytest.raises(InvalidInput, match="is not safetensors, or is damaged"):
        read_header(GivenFile.at(file, "SOURCE"))


def weight(kind: Any = "F16", shape: object = (2,), places: object = (0, 4), **more: object) -> dict[str, object]:
    return {"dtype": kind, "shape": shape, "data_offsets": places, **more}


IS_NONE = "is not safetensors, or is damaged"
HEADERS: dict[str, tuple[object, int, str | None]] = {
    "one": ({"x": weight()}, 4, None),
    "none": ({}, 0, None),
    "no numbers between": ({"x": weight(), "y": weight(shape=[0], places=[4, 4])}, 4, None),
    "a scalar": ({"x": weight("F32", [])}, 4, None),
    "unsorted": ({"y": weight(places=[4, 8]), "x": weight()}, 8, None),
    "fields besides": ({"x": weight(more=1)}, 4, None),
    "null for metadata": ({"__metadata__": None, "x": weight()}, 4, None),
    "an overlap and a hole": ({"x": weight(), "y": weight(), "z": weight(places=[8, 12])}, 12, "weight 'y' overlaps"),
    "a hole": ({"x": weight(), "y": weight(places=[6, 10])}, 10, "'y' does not begin where the one before it ends"),
    "a hole at first": ({"x": weight(places=[2, 6])}, 6, "'x' does not begin where"),
    "too few bytes": ({"x": weight(shape=[3])}, 4, "'x' is not as long as its shape says"),
    "too many bytes": ({"x": weight(shape=[])}, 4, "'x' is not as long as its shape says"),
    "half a byte": ({"x": weight("F4", [7])}, 4, "'x' is not as long as its shape says"),
    "two bytes more": ({"x": weight()}, 6, "is cut short or damaged"),
    "numbers of no known kind": ({"x": weight("Q9")}, 4, IS_NONE),
    "no kind": ({"x": weight(None)}, 4, IS_NONE),
    "a list as kind": ({"x": weight([])}, 4, IS_NONE),
    "a shape of words": ({"x": weight(shape=["2"])}, 4, IS_NONE),
    "a shape of fractions": ({"x": weight(shape=[2.0])}, 4, IS_NONE),
    "a shape of truths": ({"x": weight(shape=[True], places=[0, 2])}, 2, IS_NONE),
    "sides below zero": ({"x": weight(shape=[-2, -1])}, 4, IS_NONE),
    "a side of 65 bits": ({"x": weight(shape=[2**64, 0], places=[0, 0])}, 0, IS_NONE),
    "too many numbers": ({"x": weight(shape=[2**63, 2, 0], places=[0, 0])}, 0, "'x' is not as long"),
    "too many bits": ({"x": weight(shape=[2**62], places=[0, 0])}, 0, "'x' is not as long"),
    "three places": ({"x": weight(places=[0, 4, 4])}, 4, IS_NONE),
    "an end before its begin": ({"x": weight(places=[4, 0])}, 4, IS_NONE),
    "metadata of numbers": ({"__metadata__": {"x": 1}, "x": weight()}, 4, IS_NONE),
    "half a letter": ({"\ud800": weight()}, 4, IS_NONE),
    "what JSON has not": ({"x": weight(more=float("nan"))}, 4, IS_NONE),
    **{
        f"{bits} bits of {kind}": ({"x": weight(kind, [8], [0, bits])}, bits, None)
        for bits, kinds in {
            4: "F4",
            6: "F6_E2M3 F6_E3M2",
            8: "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
            16: "I16 U16 F16 BF16",
            32: "I32 U32 F32",
            64: "I64 U64 F64 C64",
        }.items()
        for kind in kinds.split()
    },
}
"""A header, how many bytes follow it, and why it is refused."""


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_is_refused_that_the_library_refuses_and_no_other(tmp_path: Path, case: str) -> None:
    header, size, refused = HEADERS[case]
    said = json.dumps(header).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(said).to_bytes(8, "little") + said + bytes(size))
    if refused is None:
        with safe_open(file, framework="numpy") as opened:
            assert read_header(GivenFile.at(file, "SOURCE")).shapes.keys() == set(opened.keys())
        return
    with pytest.raises(SafetensorError), safe_open(file, framework="numpy"):
        pass
    with pytest.raises(InvalidInput, match=refused):
        read_header(GivenFile.at(file, "SOURCE"))


DISGUISED = {
    b"": r"x.safetensors is empty \(fetch it again\)",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n": "is a pointer of Git LFS.*git lfs pull",
    b"\n<!DOCTYPE html><title>Log in": "is a web page, .*wanted a login, or the address was that of a page",
    b"<?xml version='1.0'?><Error>": "x.safetensors is a web page",
    b"PK\x03\x04": "x.safetensors is pickled whatever its name says",
    b"only words": f"x.safetensors {IS_NONE}",
}


@pytest.mark.parametrize("data", DISGUISED)
@pytest.mark.parametrize("look", [look_at, lora_files.look_at])
def test_a_download_that_went_wrong_is_told_for_what_it_is(
    tmp_path: Path, look: Callable[[str], object], data: bytes
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(data)
    with pytest.raises(InvalidInput, match=DISGUISED[data]):
        look(str(file))


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (
            {**checkpoint(), ORIGINAL: (8, 160)},
            r"it reads texts of width 160 \(.*'farm models add NAME=FILE#config=DIRECTORY'",
        ),
        ({**checkpoint(), ORIGINAL: (8, 2048)}, r"it reads texts of width 2048 \("),
        ({**checkpoint(), LABELS: (1, 1)}, r"it reads texts of width 768 and more \("),
        ({**checkpoint(), ORIGINAL: (8, 1280), LABELS: (1, 1)}, "is the refiner of SDXL"),
    ],
)
def test_a_checkpoint_of_no_known_architecture_is_taken_with_a_configuration_alone(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], said: str
) -> None:
    file = write_weights(tmp_path / "mine.safetensors", shapes)
    with pytest.raises(InvalidInput, match=f"SOURCE: .*mine.safetensors .*{said}"):
        look_at(str(file))
    with pytest.raises(InvalidInput, match=f"body: mine.safetensors .*{said}"):
        look_at(GivenFile(file, called="mine.safetensors", field="body", source="mine.safetensors"))
    assert look_at(f"{file}#config={write_folder(tmp_path / 'config')}").files["model.safetensors"] == file


def test_checkpoints_of_known_architectures_are_taken_by_themselves(tmp_path: Path) -> None:
    for kind, shapes in {
        "sd1": checkpoint(768),
        "sd2": checkpoint(1024),
        "sdxl": checkpoint(2048),
    }.items():
        assert look_at(str(write_weights(tmp_path / "mine.safetensors", shapes))).kind == kind


@pytest.mark.parametrize("width", [768, 2048])
def test_a_checkpoint_that_lacks_a_part_is_told_by_it(tmp_path: Path, width: int) -> None:
    file, vae = tmp_path / "mine.safetensors", tmp_path / "vae.safetensors"
    write_weights(vae, {"decoder.conv_in.weight": (8, 8)})
    write_weights(file, checkpoint(width, vae=False))
    with pytest.raises(InvalidInput, match=r"has no autoencoder \(name one: farm models add NAME=FILE#vae=FILE\)"):
        look_at(str(file))
    assert "vae.safetensors" in look_at(f"{file}#vae={vae}").files

    *others, last = (key for key in checkpoint(width) if key.startswith(("cond_stage_model.", "conditioner.")))
    write_weights(file, {key: shape for key, shape in checkpoint(width).items() if key != last})
    title = "second text encoder" if others else "text encoder"
    with pytest.raises(InvalidInput, match=rf"has no {title} \(save it again with its {title} in it\)"):
        look_at(str(file))


def test_a_configuration_that_lacks_a_part_is_told_as_a_folder_is(tmp_path: Path) -> None:
    file, config = write_weights(tmp_path / "mine.safetensors", checkpoint()), write_folder(tmp_path / "config")
    without(SCHEDULER)(config)
    with pytest.raises(InvalidInput, match=r"config has no scheduler/scheduler_config.json"):
        look_at(f"{file}#config={config}")
