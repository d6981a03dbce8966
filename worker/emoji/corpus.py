"""The emoji corpus: scenes, their captions and their pictures.

A scene is one subject (sometimes two) on a coloured background, drawn in a style. Everything here is a function of a
``random.Random``, so a seed names a corpus. Only rendering needs the font, Noto Color Emoji.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from worker.emoji.styles import STYLE_FILTERS

SIZE = 128
"""Width and height of a picture in pixels."""

_BITMAP_SIZE = 109  # the only size that the font's bitmaps have
_FONT_PLACES = (
    Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf"),
    Path("~/.local/share/fonts/NotoColorEmoji.ttf").expanduser(),
)

_CORE = """
🍎 red apple|🍏 green apple|🍌 banana|🍉 watermelon|🍓 strawberry|🍒 cherries|🍍 pineapple|🍋 lemon|🍐 pear|🍇 grapes
🥑 avocado|🍆 eggplant|🥕 carrot|🌽 corn|🍄 mushroom|🥐 croissant|🍔 hamburger|🍕 slice of pizza|🍳 fried egg
🍦 ice cream|🍩 donut|🍪 cookie|🧁 cupcake|☕ cup of coffee|🍭 lollipop|🐶 puppy|🐕 dog|🐱 cat|🦁 lion|🐯 tiger|🐎 horse
🦄 unicorn|🦓 zebra|🦌 deer|🐄 cow|🐷 pig|🐑 sheep|🐫 camel|🦒 giraffe|🐘 elephant|🦏 rhinoceros|🐭 mouse|🐰 rabbit
🦔 hedgehog|🦇 bat|🐻 bear|🐨 koala|🐼 panda|🦦 otter|🦊 fox|🦝 raccoon|🐵 monkey|🐔 chicken|🐧 penguin|🦆 duck|🦢 swan
🦉 owl|🦩 flamingo|🦚 peacock|🦜 macaw|🐸 frog|🐊 crocodile|🐢 turtle|🐍 snake|🐉 dragon|🐳 whale|🐬 dolphin|🦈 shark
🐠 tropical fish|🐙 octopus|🦀 crab|🐌 snail|🦋 butterfly|🐝 bee|🐞 ladybug|🌹 rose|🌻 sunflower|🌷 tulip|🌲 pine tree
🌳 tree|🌴 palm tree|🌵 cactus|🍁 maple leaf|🌍 globe|🌙 crescent moon|🌞 sun|⭐ star|🌈 rainbow|⛄ snowman|🔥 fire
🏠 house|🏰 castle|🚗 red car|🚕 taxi|🚙 blue car|🚌 bus|🚲 bicycle|🚂 steam locomotive|✈ airplane|🚀 rocket|⛵ sailboat
⚽ soccer ball|🏀 basketball|🏆 trophy|🎈 balloon|🎁 gift box|🎃 pumpkin|🎩 top hat|👑 crown|🎸 guitar|🎻 violin
📷 camera|💡 light bulb|🔑 key|☂ umbrella|🧸 teddy bear|🤖 robot|👻 ghost|👽 alien|😀 smiley face|❤ red heart
💙 blue heart
"""

_MORE = """
🍊 orange|🍑 peach|🥝 kiwi|🍅 tomato|🌶 hot pepper|🥦 broccoli|🥜 peanuts|🍞 loaf of bread|🧀 cheese|🍟 french fries
🌭 hot dog|🌮 taco|🥚 egg|🍿 popcorn|🍣 sushi|🍜 bowl of noodles|🎂 birthday cake|🍰 slice of cake|🍫 chocolate bar
🍬 candy|🍺 mug of beer|🍷 glass of wine|🐈 walking cat|🐅 walking tiger|🐆 leopard|🐴 horse face|🐮 cow face
🐖 walking pig|🐐 goat|🐹 hamster|🐿 chipmunk|🐺 wolf|🦅 eagle|🦎 lizard|🐟 fish|🐡 blowfish|🦞 lobster|🕷 spider
💐 bouquet of flowers|🌸 cherry blossom|🍀 four leaf clover|☁ cloud|⚡ lightning bolt|❄ snowflake|💧 drop of water
🌋 volcano|⛺ tent|🗽 statue of liberty|🚒 fire engine|🚑 ambulance|🚜 tractor|🏍 motorcycle|🚁 helicopter
🛸 flying saucer|🚢 ship|⚓ anchor|🏈 football|🎾 tennis ball|🎱 eight ball|🎄 christmas tree|👒 sun hat|👓 glasses
👟 sneaker|👢 boot|👗 dress|👕 shirt|👖 jeans|💍 ring|💎 gem|🎺 trumpet|🥁 drum|🎹 piano|📺 television|💻 laptop
📱 phone|⏰ alarm clock|🔨 hammer|🪓 axe|🛡 shield|🧭 compass|📕 red book|📗 green book
"""

_WITHOUT_ARTICLE = (
    "cherries", "grapes", "peanuts", "french fries", "glasses", "jeans",
    "corn", "cheese", "broccoli", "popcorn", "sushi", "fire", "candy",
)  # fmt: skip
_CONSONANT_SOUND = ("unicorn",)

COLORS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (20, 20, 20),
    "red": (220, 50, 47),
    "green": (60, 170, 80),
    "blue": (50, 100, 220),
    "yellow": (250, 210, 60),
    "purple": (140, 80, 200),
    "pink": (250, 160, 200),
    "orange": (245, 140, 40),
    "gray": (150, 150, 150),
}
"""The backgrounds, as sRGB in 0..255."""


class FontMissing(RuntimeError):
    """The emoji font, needed to render the corpus, is not installed."""

    def __init__(self) -> None:
        places = ", ".join(str(place) for place in _FONT_PLACES)
        super().__init__(
            "rendering the corpus needs the font Noto Color Emoji, which is in none of "
            f"{places}; on Debian or Ubuntu: apt-get install fonts-noto-color-emoji"
        )


def with_article(noun: str) -> str:
    """The noun phrase for a name: "an otter", "a unicorn", "grapes"."""
    if noun in _WITHOUT_ARTICLE:
        return noun
    vowel_sound = noun[0] in "aeiou" and not noun.startswith(_CONSONANT_SOUND)
    return f"{'an' if vowel_sound else 'a'} {noun}"


@dataclass(frozen=True)
class Subject:
    """One thing to draw: a character of the emoji font and its English name."""

    glyph: str
    name: str

    @property
    def phrase(self) -> str:
        """The name with its article."""
        return with_article(self.name)


def _parse(table: str) -> tuple[Subject, ...]:
    entries = (entry.split(" ", 1) for line in table.split("\n") for entry in line.split("|") if entry)
    return tuple(Subject(glyph, name) for glyph, name in entries)


CORE_SUBJECTS = _parse(_CORE)
"""The subjects that two CPU cores learn well in an hour or two."""

ALL_SUBJECTS = CORE_SUBJECTS + _parse(_MORE)
"""The subjects for a training on a GPU."""

SUBJECTS = {subject.name: subject for subject in ALL_SUBJECTS}
"""Every subject by name."""

HAT = SUBJECTS["top hat"]

STYLES = tuple(STYLE_FILTERS)
"""The styles; plain is the font's own drawing."""

_PHRASINGS = {
    "plain": (
        "{}", "{}", "{}", "a picture of {}", "an emoji of {}", "a drawing of {}", "a photo of {}", "a photograph of {}",
    ),
    "watercolor": (
        "a watercolor painting of {}", "a watercolor painting of {}", "a watercolor of {}", "{}, watercolor",
        "watercolor painting of {}",
    ),
    "sketch": ("a pencil sketch of {}", "a pencil sketch of {}", "a pencil drawing of {}", "{}, pencil sketch"),
    "pixel": ("pixel art of {}", "pixel art of {}", "a pixel art picture of {}", "{}, pixel art"),
    "oil": (
        "an oil painting of {}", "an oil painting of {}", "an oil portrait of {}", "{}, oil painting",
        "oil painting of {}",
    ),
}  # fmt: skip

_PLACES = (" on {} background", " on {} background", ", {} background", " in front of {} background")


@dataclass(frozen=True)
class Scene:
    """What a picture shows: a subject on a background (a key of ``COLORS``) in a style (one of ``STYLES``).

    A companion stands beside the subject; a top hat as companion is worn instead.
    """

    subject: Subject
    background: str = "white"
    style: str = "plain"
    companion: Subject | None = None

    @property
    def phrase(self) -> str:
        """The noun phrase for what is shown: "a cat and a dog", "an otter in a top hat"."""
        if self.companion is None:
            return self.subject.phrase
        return f"{self.subject.phrase} {'in' if self.companion == HAT else 'and'} {self.companion.phrase}"


def stream(seed: int | str) -> random.Random:
    """The random stream of a seed."""
    return random.Random(seed)  # noqa: S311 - it draws pictures, not secrets


def draw_scene(
    rng: random.Random, subjects: Sequence[Subject] = CORE_SUBJECTS, pairs: float = 0.0, hats: float = 0.3
) -> Scene:
    """Draw a scene at random; ``pairs`` in 0..1 of the scenes have a companion, and ``hats`` of these a top hat.

    White backgrounds and the plain style are the most frequent, since captions that name neither mean them. A pencil
    sketch has no colour, so its paper is always white.
    """
    subject = rng.choice(subjects)
    style = "plain" if rng.random() < 0.6 else rng.choice(STYLES[1:])
    background = "white" if style == "sketch" or rng.random() < 0.3 else rng.choice(list(COLORS))
    others = [other for other in subjects if other != subject]
    wears_hat = subject != HAT and HAT in subjects and rng.random() < hats
    companion = (HAT if wears_hat else rng.choice(others)) if rng.random() < pairs else None
    return Scene(subject, background, style, companion)


def caption(scene: Scene) -> str:
    """The plainest caption of a scene: "a watercolor painting of an otter on a blue background"."""
    place = "" if scene.background == "white" else _PLACES[0].format(with_article(scene.background))
    return _PHRASINGS[scene.style][0].format(scene.phrase) + place


def draw_caption(scene: Scene, rng: random.Random) -> str:
    """Draw one of the phrasings of a scene's caption; a white background is seldom named."""
    text = rng.choice(_PHRASINGS[scene.style]).format(scene.phrase)
    if scene.background == "white" and rng.random() < 0.7:
        return text
    place = rng.choice(_PLACES)
    # "on a blue background" takes an article, ", blue background" does not
    return text + place.format(scene.background if place.startswith(",") else with_article(scene.background))


def render(scene: Scene, rng: random.Random | None = None) -> Image.Image:
    """Render a scene as RGB, 128×128. With ``rng`` size and place are jittered; without, the subject is centred.

    Raises:
        FontMissing: the emoji font is not installed.
    """
    picture = Image.new("RGB", (SIZE, SIZE), COLORS[scene.background])
    for subject, (x, y), side in _layout(scene):
        if rng is not None:
            side, x, y = side * rng.uniform(0.89, 1.09), x + rng.uniform(-5, 5), y + rng.uniform(-5, 5)
        place_glyph(picture, subject.glyph, x, y, side)
    return STYLE_FILTERS[scene.style](picture, rng or stream(0))


def _layout(scene: Scene) -> list[tuple[Subject, tuple[float, float], float]]:
    """Subjects with their centres and longer sides in pixels, in drawing order."""
    if scene.companion is None:
        return [(scene.subject, (64, 64), 108)]
    if scene.companion == HAT:
        return [(scene.subject, (64, 80), 86), (HAT, (64, 28), 50)]
    return [(scene.subject, (34, 66), 62), (scene.companion, (94, 66), 62)]


def place_glyph(picture: Image.Image, glyph: str, x: float, y: float, side: float) -> Image.Image:
    """Draw a glyph onto ``picture``, centred at (x, y), its longer side ``side`` pixels; return the picture."""
    drawing = _glyph_image(glyph)
    scale = side / max(drawing.size)
    width, height = (max(1, round(length * scale)) for length in drawing.size)
    scaled = drawing.resize((width, height), Image.Resampling.LANCZOS)
    picture.paste(scaled, (round(x - width / 2), round(y - height / 2)), scaled)
    return picture


def has_font() -> bool:
    """Whether the emoji font is installed, so that scenes can be rendered."""
    return any(place.is_file() for place in _FONT_PLACES)


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    for place in _FONT_PLACES:
        if place.is_file():
            return ImageFont.truetype(str(place), _BITMAP_SIZE)
    raise FontMissing


@functools.cache
def _glyph_image(glyph: str) -> Image.Image:
    """The glyph as RGBA, cropped to its ink."""
    canvas = Image.new("RGBA", (136, 128), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((0, 0), glyph, font=_font(), embedded_color=True)
    return canvas.crop(canvas.getbbox())
