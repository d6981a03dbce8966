"""From any picture to what the models know: 8 bits of red, green and blue in sRGB, nothing transparent."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, ImageChops

from farm.errors import InvalidInput

if TYPE_CHECKING:
    from PIL import ImageCms

_OF_16_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_WITHOUT_RANGE = ("I", "F")
"""32 bits, whole or with a fraction: files with 0 to 1, to 255, to 65,535 and more all exist."""
_WITH_ALPHA = {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
_PROFILED = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The colour spaces of profiles that pictures have, and Pillow's mode for each."""
_SAME_TO_THE_EYE = 2
"""Of 255. Nearly every profile of sRGB has roundings of its own; a picture that is sRGB already keeps its pixels."""
_PROBED = (0, 32, 64, 96, 128, 160, 192, 224, 255)


class _Unusable(Exception):
    """Says why a profile is of no use."""


def to_srgb(picture: Image.Image, profile: bytes | None = None) -> tuple[Image.Image, str | None]:
    """The picture in RGB over white, converted by its colour `profile`, and what is wrong with that profile, if so.

    16 bits become 8 by scaling. A profile that cannot be used is ignored. Raises `InvalidInput` for pixels of 32
    bits, whose range no file tells.
    """
    opaque, alpha, fault = _layers(picture, profile)
    if alpha is not None:
        white = Image.new("RGB", opaque.size, "white")
        opaque = Image.composite(opaque, white, alpha)
    return opaque, fault


def to_srgb_with_alpha(picture: Image.Image, profile: bytes | None = None) -> Image.Image:
    """As `to_srgb`, but what is transparent stays so: the picture in RGBA, or in RGB if all of it is opaque."""
    colours, alpha, _ = _layers(picture, profile)
    return colours if alpha is None else Image.merge("RGBA", (*colours.split(), alpha))


def _layers(picture: Image.Image, profile: bytes | None) -> tuple[Image.Image, Image.Image | None, str | None]:
    """The colours in sRGB, seen or not; the alpha channel, if any; and what is wrong with the profile."""
    _refuse_without_range(picture)
    colours, alpha = _parted(picture)
    converted, fault = _converted(colours, profile) if profile else (colours, None)
    return converted.convert("RGB"), alpha, fault


def to_grey(picture: Image.Image) -> Image.Image:
    """How bright each pixel is, in 8 bits of grey (mode L): what is transparent is black, and no profile is looked at.

    Raises `InvalidInput` as `to_srgb`.
    """
    _refuse_without_range(picture)
    colours, alpha = _parted(picture)
    grey = colours.convert("L")
    return grey if alpha is None else ImageChops.multiply(grey, alpha)


def transparency(picture: Image.Image) -> Image.Image | None:
    """White where a picture is transparent and black where it is opaque (mode L); None if all of it is opaque."""
    alpha = None if picture.mode in _WITHOUT_RANGE else _parted(picture)[1]
    return None if alpha is None else ImageChops.invert(alpha)


def _refuse_without_range(picture: Image.Image) -> None:
    if picture.mode in _WITHOUT_RANGE:
        raise InvalidInput(
            f"a picture with pixels of 32 bits (mode {picture.mode}) does not say which value is white",
            field="init",
            hint="save it with 8 or 16 bits a channel",
        )


def _parted(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The picture with 8 bits a channel and no transparency, and its alpha channel, where it has one."""
    if picture.mode in _OF_16_BITS:
        return _scaled_to_8_bits(picture), _opaque_but(picture, picture.info.get("transparency"))
    if not picture.has_transparency_data:
        return (picture if picture.mode in ("L", "RGB", "CMYK") else picture.convert(_without_alpha(picture))), None
    with_alpha = picture.convert(_WITH_ALPHA.get(picture.mode, "RGBA"))
    return with_alpha.convert(with_alpha.mode.removesuffix("A")), with_alpha.getchannel("A")


def _without_alpha(picture: Image.Image) -> str:
    return "L" if picture.mode == "1" else "RGB"


def _scaled_to_8_bits(picture: Image.Image) -> Image.Image:
    return picture.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")


def _opaque_but(picture: Image.Image, transparent: object) -> Image.Image | None:
    """The alpha channel of a picture of 16 bits in which one value is transparent; None if none is."""
    if not isinstance(transparent, int):
        return None
    # Pillow compares no 16 bits: the value is moved to 0, and 0 is all that neither side of it keeps.
    whole = picture.convert("I")
    above = whole.point(lambda value: value * 255 - 255 * transparent).convert("L")
    below = whole.point(lambda value: value * -255 + 255 * transparent).convert("L")
    return ImageChops.lighter(above, below)


def _converted(picture: Image.Image, profile: bytes) -> tuple[Image.Image, str | None]:
    """A picture of 8 bits without alpha, from its profile's colours to sRGB's."""
    from PIL import ImageCms

    try:
        transform, mode = _transform_of(profile, picture.mode)
        if mode == "RGB" and _changes_nothing(transform):
            return picture, None
        return ImageCms.applyTransform(picture.convert(mode), transform) or picture, None
    except _Unusable as error:
        return picture, str(error)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # what lcms makes of a damaged profile
        return picture, "is damaged"


def _transform_of(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform, str]:
    """The way from a profile's colours to sRGB, and the mode that a picture must have for it."""
    from PIL import ImageCms

    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = opened.profile.xcolor_space
    needed = _PROFILED.get(space)
    # Grey is a kind of RGB, and many files of grey have a screen's profile; no other pair makes sense.
    if needed is None or (needed != mode and (mode, needed) != ("L", "RGB")):
        raise _Unusable(f"is for {space.strip() or 'nothing'}, but the picture is {_spoken(mode)}")
    transform = ImageCms.buildTransform(
        opened,
        ImageCms.createProfile("sRGB"),
        needed,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return transform, needed


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a conversion from RGB to RGB leaves every colour as it is, but for roundings."""
    from PIL import ImageCms

    probe = Image.new("RGB", (len(_PROBED) ** 2, len(_PROBED)))
    probe.putdata([(red, green, blue) for red in _PROBED for green in _PROBED for blue in _PROBED])
    after = ImageCms.applyTransform(probe, transform)
    assert after is not None
    bands = ImageChops.difference(probe, after).getextrema()
    return max(most for _, most in bands) <= _SAME_TO_THE_EYE  # type: ignore[misc]  # of three bands it is three pairs


def _spoken(mode: str) -> str:
    return "grey" if mode == "L" else mode
