"""Picture files of every mode, size and polarity to the pixels that a model was trained on."""

import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from clearloop import imaging
from clearloop.data.mnist import VALID_IMAGES, mnist
from clearloop.errors import DataError
from clearloop.imaging import grey_pixels, load_image

SIZE = (28, 28)
TURNED = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits():
    """200 digits, uint8 of shape (200, 28, 28)."""
    return mnist()[0][-VALID_IMAGES:][:200].reshape(-1, *SIZE)


def picture(pixels):
    return Image.fromarray(pixels.numpy())


def same(pixels, expected):
    return pixels.dtype == torch.uint8 and torch.equal(pixels, expected)


def as_mode(grey, mode):
    """A PIL image of mode L in another mode that loses nothing."""
    if mode == "I;16":
        return Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(np.asarray(grey).astype(np.int32) * 257)
    if mode == "P":  # a palette in an order of its own
        order = np.random.RandomState(0).permutation(256).astype(np.uint8)
        image = Image.fromarray(np.argsort(order).astype(np.uint8)[np.asarray(grey)], "P")
        image.putpalette([value for grey in order.tolist() for value in (grey, grey, grey)])
        return image
    if mode == "PA":
        return as_mode(grey, "P").convert("PA")
    if mode in ("La", "RGBa"):
        return grey.convert("LA" if mode == "La" else "RGBA").convert(mode)
    if mode == "CMYK":
        return grey.convert("RGB").convert("CMYK")
    return grey.convert(mode)


# --- files


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.gif", "a.ppm", "a.webp"])
def test_a_picture_file_is_read_with_its_pixels(name, digits, tmp_path):
    options = {"lossless": True} if name.endswith("webp") else {}
    picture(digits[0]).save(tmp_path / name, **options)
    assert same(grey_pixels(load_image(tmp_path / name), SIZE), digits[0])


def test_a_jpeg_is_read_nearly_so(digits, tmp_path):
    picture(digits[0]).save(tmp_path / "a.jpg", quality=95)
    difference = grey_pixels(load_image(str(tmp_path / "a.jpg")), SIZE).int() - digits[0].int()
    assert difference.abs().max() < 30


def test_the_file_is_closed_and_what_it_holds_is_seen_rather_than_its_name(digits, tmp_path):
    path = tmp_path / "a.jpg"
    picture(digits[1]).save(path, "PNG")
    image = load_image(path)
    path.write_bytes(b"")
    assert same(grey_pixels(image, SIZE), digits[1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright_as_its_exif_says(orientation, digits, tmp_path):
    turns = [None, *(getattr(Image.Transpose, name) for name in TURNED)]
    image = picture(digits[2])
    if turns[orientation - 1] is not None:
        image = image.transpose(turns[orientation - 1])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    assert same(grey_pixels(load_image(tmp_path / "a.png"), SIZE), digits[2])


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.png: expected a picture file, got no such file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="got a folder"):
        load_image(tmp_path)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"


@pytest.mark.parametrize("data", [b"", b"GIF", b"hello, this is text\n" * 50, POSTSCRIPT, b"\x80\x04."])
def test_what_is_no_picture_is_named(data, tmp_path):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png: expected a"):
        load_image(tmp_path / "a.png")


def test_postscript_is_never_handed_to_another_program(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("an interpreter was started")
    )
    Image.new("L", (4, 4)).save(tmp_path / "a.eps")
    with pytest.raises(DataError, match="got something else"):
        load_image(tmp_path / "a.eps")


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
def test_a_file_cut_off_anywhere_or_scrambled_is_a_data_error_or_a_picture(kind, digits, tmp_path):
    path = tmp_path / f"a.{kind}"
    picture(digits[3]).resize((64, 64)).save(path)
    whole = path.read_bytes()
    refused = 0
    draws = random.Random(0)
    damaged = [whole[: len(whole) * part // 20] for part in range(20)]
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(3):
            data[draws.randrange(len(data))] = draws.randrange(256)
        damaged.append(bytes(data))
    for data in damaged:
        path.write_bytes(data)
        try:
            load_image(path).tobytes()
        except DataError as error:
            refused += str(path) in str(error)
    assert refused >= 15


def test_a_png_cut_off_in_its_pixels_is_damaged(digits, tmp_path):
    path = tmp_path / "a.png"
    picture(torch.cat(list(digits[:20]))).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"a\.png: expected a whole picture, got a damaged one"):
        load_image(path)


@pytest.mark.parametrize("error", [OSError, SyntaxError, ValueError, struct.error, zlib.error, IndexError, MemoryError])
def test_whatever_a_decoder_raises_is_a_data_error(error, digits, tmp_path, monkeypatch):
    def load(self):
        raise error("broken")

    picture(digits[0]).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(DataError, match=r"a\.png: .*damaged one \(broken\)"):
        load_image(tmp_path / "a.png")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("side", [10_001, 12_000, 40_000, 2**31 - 1])
def test_a_file_that_claims_to_be_huge_is_refused_before_it_is_decoded(side, tmp_path, monkeypatch):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"a\.png: expected at most 100000000 pixels"):
        load_image(tmp_path / "a.png")


def test_a_picture_of_just_the_most_pixels_is_read(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(imaging, "MAX_PIXELS", 28 * 28)
    picture(digits[0]).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").size == SIZE
    picture(digits[0]).resize((28, 29)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="28 x 29"):
        load_image(tmp_path / "a.png")


# --- modes and polarity


MODES = ["L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "I;16", "I"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_same_grey_to_the_bit(mode, digits):
    for digit in digits[:10]:
        image = as_mode(picture(digit), mode)
        assert image.mode == mode
        assert same(grey_pixels(image, SIZE), digit)


@pytest.mark.parametrize("mode", MODES)
def test_dark_on_light_is_inverted_to_the_bit(mode, digits):
    for digit in digits[:10]:
        assert same(grey_pixels(as_mode(picture(255 - digit), mode), SIZE, dark_on_light=True), digit)


def test_black_and_white_becomes_0_and_255(digits):
    digit = (digits[0] > 127).byte() * 255
    image = picture(digit).convert("1")
    assert same(grey_pixels(image, SIZE), digit)
    assert same(grey_pixels(image, SIZE, dark_on_light=True), 255 - digit)


def test_colour_is_weighed_as_the_eye_does():
    image = Image.new("RGB", (1, 3))
    image.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    assert grey_pixels(image, (3, 1)).flatten().tolist() == [76, 150, 29]  # 0.299, 0.587, 0.114


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("dark_on_light", [False, True])
def test_transparent_paper_is_background_whatever_colour_lies_beneath(mode, dark_on_light, digits):
    digit = digits[4]
    for beneath in (0, 255):
        ink = 0 if dark_on_light else 255
        grey = torch.where(digit > 0, torch.tensor(ink), torch.tensor(beneath)).byte()
        image = picture(grey).convert(mode)
        image.putalpha(picture(digit))  # ink as opaque as the digit is bright
        assert same(grey_pixels(image, SIZE, dark_on_light=dark_on_light), digit)


def test_the_transparent_colour_of_a_palette_is_background(digits, tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=1)
    assert grey_pixels(load_image(tmp_path / "a.png"), (1, 2)).tolist() == [[0, 0]]
    image.save(tmp_path / "a.png", transparency=0)
    assert grey_pixels(load_image(tmp_path / "a.png"), (1, 2)).tolist() == [[0, 255]]
    assert grey_pixels(load_image(tmp_path / "a.png"), (1, 2), dark_on_light=True).tolist() == [[0, 0]]


def test_16_bits_are_rounded_and_what_has_more_is_refused():
    wide = np.array([[0, 128, 129, 257, 65535]], np.uint16)
    assert grey_pixels(Image.fromarray(wide), (1, 5)).tolist() == [[0, 0, 1, 1, 255]]
    for bad in (-1, 65536):
        with pytest.raises(DataError, match="16-bit grey values"):
            grey_pixels(Image.fromarray(np.array([[bad]], np.int32)), (1, 1))


def test_a_16_bit_file_keeps_its_grey(digits, tmp_path):
    as_mode(picture(digits[5]), "I;16").save(tmp_path / "a.png")
    assert same(grey_pixels(load_image(tmp_path / "a.png"), SIZE), digits[5])


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_other_modes_are_refused_by_name(mode):
    with pytest.raises(DataError, match=f"mode {mode}"):
        grey_pixels(Image.new(mode, (3, 3)), SIZE)


# --- size


def test_whole_multiples_are_averaged_back_to_the_bit(digits):
    for digit in digits[:10]:
        large = picture(digit).resize((84, 84), Image.Resampling.NEAREST)
        assert same(grey_pixels(large, SIZE), digit)


def test_scaling_down_averages_rather_than_drops_pixels():
    stripes = np.zeros((280, 280), np.uint8)
    stripes[::2] = 200
    assert same(grey_pixels(Image.fromarray(stripes), SIZE), torch.full(SIZE, 100).byte())
    thin = np.zeros((275, 275), np.uint8)
    thin[:, 137] = 255
    assert 20 < float(grey_pixels(Image.fromarray(thin), SIZE).float().sum(1).mean()) < 40  # 255 / 275 * 28 = 26


@pytest.mark.parametrize(("width", "height"), [(56, 28), (28, 56), (14, 7), (3, 1), (1, 300), (100, 99)])
def test_the_aspect_ratio_is_kept_and_the_rest_is_black(width, height):
    pixels = grey_pixels(Image.new("L", (width, height), 255), SIZE)
    rows, columns = (pixels > 0).any(1).nonzero().flatten(), (pixels > 0).any(0).nonzero().flatten()
    scale = 28 / max(width, height)
    expected = max(1, round(height * scale)), max(1, round(width * scale))
    assert (len(rows), len(columns)) == expected
    assert (pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 255).all()
    for found, expected_length in ((rows, expected[0]), (columns, expected[1])):
        before, after = int(found[0]), 27 - int(found[-1])
        assert after - before == (28 - expected_length) % 2


def test_sizes_need_not_be_square():
    pixels = grey_pixels(Image.new("L", (10, 10), 255), (4, 9))
    assert pixels.shape == (4, 9)
    assert (pixels > 0).any(0).tolist() == [False] * 2 + [True] * 4 + [False] * 3


def test_light_paper_around_is_padded_as_paper():
    pixels = grey_pixels(Image.new("L", (56, 28), 255), SIZE, dark_on_light=True)
    assert not pixels.any()


# --- crop


def test_digits_of_mnist_are_placed_where_they_are_already(digits):
    unchanged = [same(grey_pixels(picture(digit), SIZE, crop=True), digit) for digit in digits]
    assert sum(unchanged) >= 0.99 * len(digits)


def test_a_digit_anywhere_on_a_large_sheet_is_found(digits):
    rng = np.random.RandomState(0)
    for digit in digits[:20]:
        sheet = np.zeros((300, 200), np.uint8)
        top, left = rng.randint(300 - 56), rng.randint(200 - 56)
        large = picture(digit).resize((56, 56), Image.Resampling.NEAREST)
        sheet[top : top + 56, left : left + 56] = np.asarray(large)
        assert same(grey_pixels(Image.fromarray(sheet), SIZE, crop=True), digit)


def test_ink_on_grey_and_noisy_paper_is_found(digits):
    rng = np.random.RandomState(0)
    likeness = []
    for digit in digits[:50]:
        sheet = np.full((200, 200), 200, np.int64) + rng.randint(-8, 9, (200, 200))
        large = np.asarray(picture(digit).resize((112, 112), Image.Resampling.BICUBIC)).astype(np.int64)
        sheet[40:152, 70:182] -= large * 180 // 255
        image = Image.fromarray(sheet.clip(0, 255).astype(np.uint8))
        found = grey_pixels(image, SIZE, dark_on_light=True, crop=True)
        assert not found[:2].any()  # the paper became black, not grey
        likeness.append(np.corrcoef(found.double().flatten(), digit.double().flatten())[0, 1])
    assert np.mean(likeness) > 0.9


def test_a_stroke_is_scaled_to_the_box_and_its_centre_of_mass_put_in_the_middle():
    sheet = np.zeros((100, 100), np.uint8)
    sheet[10:90, 10:20] = 255  # a tall stroke
    sheet[80:90, 10:50] = 255  # with a foot to the right
    pixels = grey_pixels(Image.fromarray(sheet), SIZE, crop=True).double()
    rows, columns = pixels.sum(1), pixels.sum(0)
    assert len(rows.nonzero()) == 20
    assert len(columns.nonzero()) == 10
    for sums in (rows, columns):
        centre = float(sums @ torch.arange(28.0, dtype=torch.float64) / sums.sum())
        assert 13.5 <= centre <= 14.5


def test_the_box_stays_inside_where_the_centre_of_mass_lies_far_off():
    sheet = np.zeros((100, 100), np.uint8)
    sheet[1:31, 1:31] = 255  # nearly all weight in a corner
    sheet[98, 1:99] = sheet[1:99, 98] = 60
    pixels = grey_pixels(Image.fromarray(sheet), SIZE, crop=True)
    assert pixels.sum(0).nonzero().flatten().tolist() == list(range(8, 28))
    assert pixels.sum(1).nonzero().flatten().tolist() == list(range(8, 28))


@pytest.mark.parametrize("grey", [0, 128, 255])
@pytest.mark.parametrize("dark_on_light", [False, True])
def test_a_picture_without_ink_is_refused_with_a_hint(grey, dark_on_light):
    with pytest.raises(DataError, match="dark_on_light=True"):
        grey_pixels(Image.new("L", (50, 50), grey), SIZE, dark_on_light, crop=True)


def test_the_picture_given_is_not_changed(digits):
    for mode in ("L", "RGBA", "P"):
        image = as_mode(picture(digits[0]), mode)
        before = image.tobytes()
        grey_pixels(image, SIZE, crop=True).zero_()
        grey_pixels(image, SIZE, dark_on_light=True).zero_()
        assert image.tobytes() == before
