"""Rendered pictures of text for PP-OCR (Du et al. 2020, arXiv:2009.09941): lines for its direction classifier, pages for its detector.

Everything is drawn from a seed with the font that Pillow carries (Aileron, Latin letters), so nothing has to be fetched. The same
Pillow draws the same pixels; another version's rasteriser may differ in some. Training and test texts share no word.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edge.datasets import Dataset, Split
from edge.datasets.preprocessing import Preprocessing, normalised
from edge.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import ImageFont
    from PIL.Image import Image

Part = Literal["train", "test"]

#: As PP-OCR prepares a line: blue first, to [-1, 1]; the line keeps its aspect up to the full width, and 0 fills the rest.
LINE = Preprocessing(size=(48, 192), mean=(0.5,), std=(0.5,), order="bgr", resize="pad")
#: As PP-OCR prepares a page: ImageNet's mean and deviation, in that order though blue comes first.
PAGE = Preprocessing(size=(320, 320), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), order="bgr")
#: Pictures in each part.
LINES: dict[Part, int] = {"train": 1024, "test": 400}
PAGES: dict[Part, int] = {"train": 128, "test": 64}
SEEDS: dict[Part, int] = {"train": 2020, "test": 2009}

#: Words of the training texts and of the test texts, turn by turn.
WORDS = """
account address airport amount analysis apple april archive arrival august autumn balance banana barrel battery beach bicycle blanket
border bottle bread bridge brother budget butter cabinet camera canal candle capital captain carbon castle catalogue cement century
certificate channel cheese chemical chicken chocolate circle citizen climate coffee college colour column company computer concert
contract copper corner cotton country courage cousin crystal culture current curtain customer daily damage danger december delivery
density desert design diamond dinner direction discount distance district doctor document dollar double drawing driver duration eastern
economy editor electric elephant emergency engine entrance envelope equipment evening example exchange exercise factory family farmer
february festival figure filter finance flight flower forest formula foundation fountain friday furniture future gallery garden gasoline
general glacier golden government granite grocery guarantee guitar hammer handle harbour harvest height highway history holiday horizon
hospital hotel hundred hydrogen industry insurance invoice island january jacket journal journey kitchen knowledge label ladder language
laundry leather lemon letter library licence light liquid lobster location lumber machine magazine manager marble market material
measure medicine melody memory message metal midnight mineral minister mirror monday monitor morning mountain museum music needle
network northern notebook november number object october office orange orchard order oxygen package painting palace paper parcel parking
passenger payment pencil pepper permit phone picture pillow planet plastic platform pocket police pottery powder pressure printer
problem product profile project quality quarter question quiet railway rainbow receipt record region reserve restaurant river rocket
safety saturday school science season second security september service shelter signal silver sister society southern speaker special
spring square station storage street student subject sugar summer sunday supply surface surgery switch system tablet target teacher
telephone temperature theatre thursday ticket timber tobacco tomorrow traffic train travel treasure tuesday tunnel umbrella uniform
university vacation valley vegetable vehicle velocity victory village violin visitor volume wagon warehouse warning water weather
wednesday weekend weight western window winter witness wonder workshop yellow yesterday
"""


def load_directions(folder: Path | None = None) -> Dataset:
    """Text lines [N, 3, 48, 192] for the direction classifier: label 0 upright, 1 turned by 180 degrees; every second one is turned.

    Raises:
        BadInput: a folder was named; this data set has none.
    """
    _no_folder("text_directions", folder)
    return Dataset("text_directions", _directions("train"), _directions("test"))


def load_pages(folder: Path | None = None) -> Dataset:
    """Pages of text lines [N, 3, 320, 320] for the detector. They have no classes: the labels are all zero and mean nothing.

    What the detector should find is in `page_masks`.

    Raises:
        BadInput: a folder was named; this data set has none.
    """
    _no_folder("text_pages", folder)
    splits = [Split(_pages(part)[0], np.zeros(PAGES[part], np.int64)) for part in ("train", "test")]
    return Dataset("text_pages", splits[0], splits[1])


def page_masks(part: Part) -> NDArray[np.bool_]:
    """Where the pages of `load_pages` hold ink: the box of each text line, [N, 320, 320], in the order of the split ``part``.

    A detector that was trained as DB is (Liao et al. 2019, arXiv:1911.08947) marks a shrunk core of each line: PP-OCRv4's map above 0.3
    lies inside these boxes and fills about half of them.
    """
    return _pages(part)[1]


def _no_folder(name: str, folder: Path | None) -> None:
    if folder is not None:
        raise BadInput(f"the data set {name!r} is rendered and takes no folder")


def _directions(part: Part) -> Split:
    labels = np.arange(LINES[part], dtype=np.int64) % 2
    pictures = line_pictures(part, len(labels))
    return Split(np.stack([_line_input(p.rotate(180) if label else p) for p, label in zip(pictures, labels, strict=True)]), labels)


def _line_input(picture: Image) -> NDArray[np.float32]:
    """[3, 48, 192]: 48 high, at most 192 wide (a longer line is squeezed, as PP-OCR does), the rest 0."""
    from PIL.Image import Resampling

    height, width = LINE.size
    inner = min(width, -(-height * picture.width // picture.height))
    canvas = np.zeros(LINE.shape, np.float32)
    canvas[:, :, :inner] = normalised(picture.resize((inner, height), Resampling.BILINEAR), LINE)
    return canvas


def line_pictures(part: Part, count: int) -> list[Image]:
    """The first ``count`` lines, upright, as RGB images of their own sizes; no two show the same text."""
    rng = np.random.default_rng(SEEDS[part])
    pictures: list[Image] = []
    seen: set[str] = set()
    while len(pictures) < count:
        text = _phrase(rng, part)
        if text not in seen:
            seen.add(text)
            pictures.append(_line(rng, text))
    return pictures


def _line(rng: np.random.Generator, text: str) -> Image:
    """One line with its margins, slightly tilted, blurred and noisy."""
    from PIL import Image

    size = int(rng.integers(16, 41))
    left, upper, right, lower = _font(size).getbbox(text)
    pad_x, pad_y = (int(size * rng.uniform(0.08, 0.4)) for _ in range(2))
    width, height = int(right - left) + 2 * pad_x, int(lower - upper) + 2 * pad_y
    ink = _ink((width, height), [_Line(text, size, pad_x, pad_y)])
    # a long line tilts less: its ends stay inside the margins
    tilt = float(rng.uniform(-1, 1)) * min(3.0, 40 * pad_y / width)
    ink = ink.rotate(tilt, Image.Resampling.BILINEAR)
    return _picture(rng, ink)


@dataclass(frozen=True)
class _Line:
    """A text, its font size, and where the upper left corner of its ink lies, in pixels."""

    text: str
    size: int
    x: int
    y: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, upper, right, lower edge of the ink."""
        left, upper, right, lower = _font(self.size).getbbox(self.text)
        return self.x, self.y, self.x + int(right - left), self.y + int(lower - upper)


@cache
def _pages(part: Part) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Inputs [N, 3, 320, 320] and masks [N, 320, 320]."""
    rng = np.random.default_rng(SEEDS[part] + 1)
    inputs = np.empty((PAGES[part], *PAGE.shape), np.float32)
    masks = np.zeros((PAGES[part], *PAGE.size), np.bool_)
    for index in range(PAGES[part]):
        lines = _layout(rng, part)
        inputs[index] = normalised(_picture(rng, _ink((PAGE.size[1], PAGE.size[0]), lines)), PAGE)
        for line in lines:
            left, upper, right, lower = line.box
            masks[index, upper:lower, left:right] = True
    return inputs, masks


def _layout(rng: np.random.Generator, part: Part) -> list[_Line]:
    """Lines from the top of a page down, of different sizes and indents, some gaps larger than others."""
    height, width = PAGE.size
    lines: list[_Line] = []
    y = int(rng.integers(8, 40))
    while y < height - 40 and len(lines) < 9:
        line = _Line(_phrase(rng, part), int(rng.integers(12, 27)), int(rng.integers(6, 60)), y)
        _, _, right, lower = line.box
        if right < width - 4 and lower < height - 4:
            lines.append(line)
            y = lower + int(rng.integers(8, 40))
    return lines


def _ink(size: tuple[int, int], lines: list[_Line]) -> Image:
    """A grey image of (width, height), 255 where letters are."""
    from PIL import Image, ImageDraw

    image = Image.new("L", size)
    draw = ImageDraw.Draw(image)
    for line in lines:
        font = _font(line.size)
        left, upper, _, _ = font.getbbox(line.text)
        draw.text((line.x - left, line.y - upper), line.text, fill=255, font=font)
    return image


def _picture(rng: np.random.Generator, ink: Image) -> Image:
    """Ink in one colour on an uneven ground of another, blurred and with noise."""
    from PIL import Image, ImageFilter

    dark, light = rng.uniform(0, 90, 3), rng.uniform(165, 255, 3)
    letters, ground = (colour.astype(np.float32) for colour in ((dark, light) if rng.random() < 0.7 else (light, dark)))
    cover = np.asarray(ink, np.float32)[..., None] / 255
    pixels = (ground + _unevenness(rng, ink.height, ink.width)[..., None]) * (1 - cover) + letters * cover
    blurred = Image.fromarray(_bytes(pixels)).filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.9))))
    noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(0, 14))
    return Image.fromarray(_bytes(np.asarray(blurred, np.float32) + noise))


def _unevenness(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """[height, width] grey levels to add to a ground: a slope, and sometimes stripes."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    right, down, strength, across, along = (np.float32(rng.uniform(-limit, limit)) for limit in (25 / width, 25 / height, 10, 0.4, 0.4))
    stripes = strength * np.sin(x * across + y * along) if rng.random() < 0.4 else np.float32(0)
    return np.asarray(x * right + y * down + stripes, np.float32)


def _bytes(pixels: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(pixels), 0, 255), np.uint8)


def _phrase(rng: np.random.Generator, part: Part) -> str:
    """One to three words of the part, often with a number: always letters that tell up from down."""
    words = WORDS.split()[0::2] if part == "train" else WORDS.split()[1::2]
    chosen = [words[int(i)] for i in rng.integers(0, len(words), int(rng.integers(1, 4)))]
    style = rng.integers(0, 3)
    text = " ".join(chosen)
    text = text.upper() if style == 0 else text.title() if style == 1 else text
    number = int(rng.integers(1, 10_000))
    tails = ("", "", f" {number}", f" No. {number}", f": {number / 100:.2f}", f", {1900 + number % 130}", f" ({number % 100}%)", "!")
    return text + tails[int(rng.integers(0, len(tails)))]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise Unavailable("this Pillow was built without FreeType, so no text can be rendered", hint="run: make setup")
    return font
