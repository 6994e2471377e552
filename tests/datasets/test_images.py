"""Image and mask files to arrays."""

import io
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFile, ImageOps, TiffImagePlugin

from datasets.fit import Fit
from datasets.images import AnySize, from_pillow, image_from, read_image, read_mask
from datasets.listing import SUFFIXES
from tests.conftest import REPO, draw_good
from utils.errors import UserError

GOOD = draw_good(np.random.default_rng(0), 48)
ORIENTATION = 274  # the tag, in EXIF and in TIFF


def write_tiff(path, pixels, extra=(), orientation=1):
    """An uncompressed TIFF of any channels [H,W,C]; `extra` has the types of those after RGB (0: unspecified)."""
    height, width, channels = pixels.shape
    content = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    tags = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8 * pixels.itemsize] * channels),
        259: ("H", [1]),
        262: ("H", [2 if channels > 2 else 1]),
        273: ("I", [8]),
        ORIENTATION: ("H", [orientation]),
        277: ("H", [channels]),
        278: ("I", [height]),
        279: ("I", [len(content)]),
        **({338: ("H", extra)} if extra else {}),
    }
    start = 8 + len(content)
    entries, overflow = struct.pack("<H", len(tags)), b""
    for tag, (kind, values) in sorted(tags.items()):
        raw = struct.pack(f"<{len(values)}{kind}", *values)
        if len(raw) > 4:
            raw, overflow = struct.pack("<I", start + 2 + 12 * len(tags) + 4 + len(overflow)), overflow + raw
        entries += struct.pack("<HHI", tag, {"H": 3, "I": 4}[kind], len(values)) + raw.ljust(4, b"\0")
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + content + entries + bytes(4) + overflow)


def add_exif(path, orientation):
    """Put an orientation into a PNG that has none."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content, body = path.read_bytes(), b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(content[:33] + chunk + content[33:])  # after the header


def remarks_on(read, path):
    said = []
    read(path, said.append)
    return said


# ---- images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_becomes_rgb_of_eight_bits(tmp_path, suffix):
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(GOOD).save(path)
    image = read_image(path)
    assert image.shape == (48, 48, 3) and image.dtype == np.uint8
    if suffix in (".jpg", ".jpeg", ".webp"):
        assert np.abs(image.mean(axis=(0, 1)) - GOOD.mean(axis=(0, 1))).max() < 3  # red and blue differ by more
    else:
        assert (image == GOOD).all()
    assert remarks_on(read_image, path) == []


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4)])
def test_sixteen_bits_keep_their_depth_and_colour_order(tmp_path, suffix, shape):
    pixels = np.random.default_rng(0).integers(0, 2**16, shape).astype(np.uint16)
    stored = pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: shape[2]]]
    assert cv2.imwrite(str(tmp_path / f"deep{suffix}"), stored)
    image = read_image(tmp_path / f"deep{suffix}")
    expected = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(("brightest", "said"), [(4095, True), (4096, False)])
def test_twelve_bits_in_sixteen_are_said(tmp_path, brightest, said):
    assert cv2.imwrite(str(tmp_path / "dark.png"), np.full((8, 8), brightest, np.uint16))
    remarks = remarks_on(read_image, tmp_path / "dark.png")
    assert bool(remarks) == said and all(
        "if the camera has 12 bits, multiply the values by 16" in each for each in remarks
    )


def test_sixteen_bit_gray_with_alpha_keeps_its_depth(tmp_path):
    """Pillow converts it to 8 bits."""
    pixels = np.arange(0, 60000, 1000).reshape(5, 6, 2).astype(">u2")
    assert cv2.imwrite(str(tmp_path / "deep.png"), pixels[..., 0].astype(np.uint16))
    header = b"IHDR" + struct.pack(">IIBBBBB", 6, 5, 16, 4, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, body, b"IEND")]
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), pixels[..., [0, 0, 0]])


def test_sixteen_bit_gray_is_not_clipped_to_white(tmp_path):
    """Pillow's convert("RGB") turns every 16-bit value above 255 into white."""
    deep = np.linspace(0, 2**16 - 1, 64 * 64).reshape(64, 64).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "deep.png"), deep)
    fitted = Fit((64, 64), (64, 64)).image(read_image(tmp_path / "deep.png"))
    assert fitted.dtype == np.uint16
    np.testing.assert_array_equal(fitted, deep[None].repeat(3, axis=0))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "PA", "1", "CMYK"])
def test_other_pillow_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("picture.tif" if mode in ("CMYK", "PA") else "picture.png")
    picture = Image.fromarray(GOOD).convert("L").convert("P" if mode == "PA" else "RGB").convert(mode)
    picture.save(path)
    np.testing.assert_array_equal(read_image(path), np.array(picture.convert("RGB")))


def test_gray_is_repeated(tmp_path):
    Image.fromarray(GOOD[..., 0]).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), GOOD[..., [0, 0, 0]])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_orientation_is_applied_to_images_and_masks(tmp_path, suffix, orientation):
    path, exif = tmp_path / f"turned{suffix}", Image.Exif()
    exif[ORIENTATION] = orientation
    picture = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    ImageDraw.Draw(picture).rectangle((2, 2, 9, 5), fill="white")
    picture.save(path, exif=exif, lossless=True)
    with Image.open(path) as stored:
        upright = np.array(ImageOps.exif_transpose(stored))
    assert upright.shape[:2] == ((20, 30) if orientation < 5 else (30, 20))
    np.testing.assert_array_equal(read_image(path), upright)
    np.testing.assert_array_equal(read_mask(path), upright.max(axis=2) > 127)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_exif_orientation_is_applied_to_sixteen_bit_colours(tmp_path, suffix, orientation):
    pixels = np.random.default_rng(0).integers(0, 2**16, (20, 30, 3)).astype(np.uint16)
    path = tmp_path / f"turned{suffix}"
    if suffix == ".tif":
        write_tiff(path, pixels, orientation=orientation)
    else:
        assert cv2.imwrite(str(path), pixels[..., ::-1])
        add_exif(path, orientation)
    planes = [Image.fromarray(plane) for plane in pixels.transpose(2, 0, 1)]
    for plane in planes:
        plane.getexif()[ORIENTATION] = orientation
    upright = np.dstack([np.array(ImageOps.exif_transpose(plane)) for plane in planes])
    np.testing.assert_array_equal(read_image(path), upright)


# ---- what a picture holds beyond what is read ------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_of_many_pages_or_frames_the_first_is_read_and_it_is_said(tmp_path, suffix):
    frames = [Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (200, 100, 50)]
    frames[0].save(tmp_path / f"many{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    assert (read_image(tmp_path / f"many{suffix}") == 200).all()
    said = remarks_on(read_image, tmp_path / f"many{suffix}")
    assert said == ["only the first of its pages or frames is read"]


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "extra", "said"), [(4, (0,), True), (5, (0, 0), True), (4, (2,), False)])
def test_of_more_channels_than_colours_these_are_read_and_it_is_said(tmp_path, depth, channels, extra, said):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(depth).max, (6, 7, channels)).astype(depth)
    write_tiff(tmp_path / "bands.tif", pixels, extra)
    if channels == 5 and depth == np.uint16:  # neither Pillow nor OpenCV reads it
        with pytest.raises(UserError, match=r"bands.tif: cannot be read as an image \(.*unknown format or kind"):
            read_image(tmp_path / "bands.tif")
        return
    np.testing.assert_array_equal(read_image(tmp_path / "bands.tif"), pixels[..., :3])
    expected = ["only red, green and blue (or gray) of its channels are read"] if said else []
    assert remarks_on(read_image, tmp_path / "bands.tif") == expected


# ---- files that cannot be used ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0, 0.03, 0.7])
def test_a_damaged_file_is_named_in_one_clean_sentence(tmp_path, suffix, keep):
    buffer = io.BytesIO()
    Image.fromarray(GOOD).save(buffer, Image.registered_extensions()[suffix])
    content = buffer.getvalue()
    path = tmp_path / f"half{suffix}"
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match=f"half{suffix}: cannot be read as an image") as error:
        read_image(path)
    assert "0x" not in str(error.value) and "\n" not in str(error.value)
    assert keep > 0 or "the file is empty" in str(error.value)


def test_half_a_picture_is_an_error_though_another_library_allows_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    Image.fromarray(GOOD).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="half.png"):
        read_image(tmp_path / "half.png")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("pixels", [np.zeros((8, 8), np.float32), np.full((8, 8), 200, np.int32)])
def test_other_depths_are_refused_by_name(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "deep.tif")
    with pytest.raises(UserError, match="deep.tif: only 8- and 16-bit"):
        read_image(tmp_path / "deep.tif")
    with pytest.raises(UserError, match="must have pixels of 8- or 16-bit"), Image.open(tmp_path / "deep.tif") as image:
        from_pillow(image)


def test_a_mask_of_32_bits_is_read_because_only_black_matters(tmp_path):
    pixels = np.zeros((8, 8), np.int32)
    pixels[2:4] = 1
    Image.fromarray(pixels).save(tmp_path / "mask.tif")
    assert (read_mask(tmp_path / "mask.tif") == (pixels > 0)).all()


def test_files_that_the_system_refuses_are_named(tmp_path):
    for path in (tmp_path / "gone.png", tmp_path, tmp_path / f"{'x' * 300}.png", tmp_path / "a\0.png"):
        with pytest.raises(UserError, match=r": cannot be read: \S") as error:
            read_image(path)
        assert str(error.value).startswith(f"{path}: ") and str(error.value).count(str(path)) == 1


# ---- Pillow's own settings -------------------------------------------------------------------------------------


def test_the_content_of_a_file_is_read_like_the_file(tmp_path):
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), draw_good(np.random.default_rng(0)))
    assert (image_from(path.read_bytes(), "it") == read_image(path)).all()
    with pytest.raises(UserError, match=r"^it: cannot be read as an image \(the file is empty\)"):
        image_from(b"", "it")


def test_a_small_file_with_a_huge_picture_is_refused_before_it_is_decoded():
    data = io.BytesIO()
    Image.new("L", (3000, 2000)).save(data, "PNG")
    assert image_from(data.getvalue(), "it", most=6_000_000).shape == (2000, 3000, 3)
    cut = data.getvalue()[:60]  # decoding it would be another error
    with pytest.raises(UserError, match=r"^it: .*3000 x 2000 pixels; at most 5,999,999 in all"):
        image_from(cut, "it", most=5_999_999)
    Image.new("1", (1, 65_536)).save(data := io.BytesIO(), "PNG")  # it would need far more than a square one
    with pytest.raises(UserError, match=r"^it: .*1 x 65536 pixels; at most 6,000,000 in all and 65,535 a side"):
        image_from(data.getvalue(), "it", most=6_000_000)


def test_gray_in_which_white_is_zero_is_no_negative(tmp_path):
    pixels = np.array([[0, 2560, 51200, 65535]], np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.tif", tiffinfo={262: 0})  # PhotometricInterpretation
    assert read_image(tmp_path / "a.tif")[..., 0].tolist() == [[65535, 62975, 14335, 0]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "EPS", "GIF"])
def test_only_the_usual_formats_are_decoded_whatever_the_name(kind, tmp_path):
    """For others Pillow may start a program, such as Ghostscript."""
    path = tmp_path / "it.png"
    Image.new("RGB", (8, 8)).save(path, kind)
    if kind not in ("EPS", "GIF"):
        assert read_image(path).shape == (8, 8, 3)
        return
    with pytest.raises(UserError, match="it.png: cannot be read as an image .*unknown format"):
        read_image(path)


def test_the_pages_of_a_file_are_not_counted(tmp_path, monkeypatch):
    """That takes minutes if there are very many of them."""
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "n_frames", property(lambda image: pytest.fail("counted")))
    pages = [Image.new("L", (8, 8), value) for value in (7, 8)]
    for more, said in (pages, ["only the first of its pages or frames is read"]), (pages[:1], []):
        pages[0].save(tmp_path / "it.tif", save_all=True, append_images=more[1:])
        remarks = []
        assert read_image(tmp_path / "it.tif", remarks.append)[0, 0, 0] == 7 and remarks == said


def test_importing_leaves_the_settings_of_pillow_alone():
    names = "Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES"
    code = f"from PIL import Image, ImageFile; before = {names}; import datasets.images; assert before == ({names})"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_picture_above_pillows_limit_is_read_in_any_thread_and_the_limit_comes_back(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / f"large{suffix}"
    Image.fromarray(GOOD).save(path)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path).load()
    with ThreadPoolExecutor(8) as pool:
        assert all((image == GOOD).all() for image in pool.map(read_image, [path] * 100))
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_limit_comes_back_when_the_last_reader_leaves_and_in_a_forked_process(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    reading = AnySize()
    with reading:
        with reading:
            assert Image.MAX_IMAGE_PIXELS is None
        assert Image.MAX_IMAGE_PIXELS is None
    assert Image.MAX_IMAGE_PIXELS == 100
    reading.__enter__()
    reading.lock.acquire()  # a thread was inside when the process forked, and does not exist in the child
    reading.renew()
    assert Image.MAX_IMAGE_PIXELS == 100
    with reading:
        assert Image.MAX_IMAGE_PIXELS is None
    assert Image.MAX_IMAGE_PIXELS == 100


# ---- masks -----------------------------------------------------------------------------------------------------

SQUARE = np.zeros((60, 80), bool)
SQUARE[20:40, 30:55] = True


def save(path, colours, alpha=None, **how):
    """`colours` [H,W] or [H,W,3] uint8, with `alpha` [H,W] if given."""
    mode = {2: "L", 3: "RGB"}[colours.ndim]
    picture = Image.fromarray(colours)
    if alpha is not None:
        picture = Image.merge(f"{mode}A", [*picture.split(), Image.fromarray(alpha)])
    picture.save(path, **how)
    return path


def painted(inside, outside):
    """Two colours, (r, g, b) or gray, in and around the square."""
    return np.where(SQUARE if np.ndim(inside) == 0 else SQUARE[..., None], inside, outside).astype(np.uint8)


@pytest.mark.parametrize("value", [1, 128, 255])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_everything_above_zero_is_defect_in_a_lossless_mask(tmp_path, suffix, value):
    path = save(tmp_path / f"mask{suffix}", painted(value, 0), lossless=True)
    np.testing.assert_array_equal(read_mask(path), SQUARE)
    assert remarks_on(read_mask, path) == []


def test_masks_of_one_and_sixteen_bits(tmp_path):
    Image.fromarray(SQUARE).save(tmp_path / "bits.png")
    assert cv2.imwrite(str(tmp_path / "deep.png"), SQUARE.astype(np.uint16))
    for name in ("bits.png", "deep.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), SQUARE)


@pytest.mark.parametrize(
    ("name", "how"),
    [("mask.jpg", {"quality": 50}), ("mask.webp", {"quality": 30}), ("mask.tif", {"compression": "jpeg"})],
)
@pytest.mark.parametrize("colour", [255, (255, 0, 0)])
def test_traces_of_lossy_compression_are_not_defects(tmp_path, name, how, colour):
    path = save(tmp_path / name, painted(colour, np.zeros_like(colour)), **how)
    assert (read_image(path).max(axis=2) > 0).sum() > 1.05 * SQUARE.sum()  # there are traces
    assert (read_mask(path) != SQUARE).sum() <= 0.05 * SQUARE.sum()
    said = remarks_on(read_mask, path)
    assert len(said) == 1 and "only pixels brighter than 127 are defect" in said[0]


def test_a_lossy_mask_that_half_of_full_scale_would_empty_is_refused(tmp_path):
    path = save(tmp_path / "dim.jpg", painted(1, 0) * 60)
    with pytest.raises(UserError, match="dim.jpg: the mask is in a lossy format.*brightest value is 6.*as png"):
        read_mask(path)
    assert not read_mask(save(tmp_path / "black.jpg", painted(0, 0))).any()


def test_masks_in_colours(tmp_path):
    np.testing.assert_array_equal(read_mask(save(tmp_path / "blue.png", painted((0, 0, 9), (0, 0, 0)))), SQUARE)
    everything = save(tmp_path / "white.png", np.full((60, 80, 3), 255, np.uint8))
    assert read_mask(everything).all()


@pytest.mark.parametrize("background", [(255, 255, 255), (1, 0, 0)])
def test_a_mask_in_colours_without_black_is_refused(tmp_path, background):
    path = save(tmp_path / "paper.png", painted((255, 0, 0), background))
    with pytest.raises(UserError, match="paper.png: the mask has no black pixel"):
        read_mask(path)


@pytest.mark.parametrize("colour", [255, (255, 0, 0)])
def test_transparency_that_agrees_with_the_colours_or_is_the_same_everywhere_is_ignored(tmp_path, colour):
    colours = painted(colour, np.zeros_like(colour))
    for alpha in (painted(255, 255), painted(128, 128), painted(0, 0), painted(90, 0)):
        np.testing.assert_array_equal(read_mask(save(tmp_path / "mask.png", colours, alpha)), SQUARE)


@pytest.mark.parametrize(("inside", "outside"), [(0, 0), (255, 255), (0, 255)])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_that_disagrees_with_the_colours_is_refused(tmp_path, inside, outside, channels):
    """A defect painted black on nothing, or on transparent white, would be read as no defect or all defect."""
    colours = painted(inside, outside)
    colours = colours if channels == 1 else colours[..., None].repeat(3, axis=2)
    path = save(tmp_path / "layer.png", colours, painted(255, 0))
    with pytest.raises(UserError, match="layer.png: the mask's transparency and its colours mark different pixels"):
        read_mask(path)


def palette_mask(path, *colours, **how):
    """A palette picture: index 0 around the square and 1 in it."""
    picture = Image.fromarray(SQUARE.astype(np.uint8)).convert("P")
    picture.putpalette([value for colour in colours for value in colour])
    picture.save(path, **how)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_of_a_palette_mask_the_colours_count(tmp_path, suffix):
    labels = palette_mask(tmp_path / f"labels{suffix}", (0, 0, 0), (128, 0, 0))
    np.testing.assert_array_equal(read_mask(labels), SQUARE)
    inverted = palette_mask(tmp_path / f"inverted{suffix}", (255, 255, 255), (0, 0, 0))
    np.testing.assert_array_equal(read_mask(inverted), ~SQUARE)
    with pytest.raises(UserError, match=f"paper{suffix}: the mask has no black pixel"):
        read_mask(palette_mask(tmp_path / f"paper{suffix}", (255, 255, 255), (200, 0, 0)))


def test_the_transparent_entry_of_a_palette_counts_as_transparency(tmp_path):
    clear = palette_mask(tmp_path / "clear.png", (0, 0, 0), (128, 0, 0), transparency=0)
    np.testing.assert_array_equal(read_mask(clear), SQUARE)
    with pytest.raises(UserError, match="transparency and its colours"):
        read_mask(palette_mask(tmp_path / "paper.png", (255, 255, 255), (0, 0, 0), transparency=0))
