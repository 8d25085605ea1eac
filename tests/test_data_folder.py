"""A folder of image files is a DataSet: every kind of file, sizes, colours, classes, parts, and what is wrong."""

import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from iresnet_fast import data
from iresnet_fast.data import DataError, ImageOptions

RNG = np.random.default_rng(0)
GREY, COLOUR = RNG.integers(0, 256, (6, 4), np.uint8), RNG.integers(0, 256, (6, 4, 3), np.uint8)


def loaded(folder, **options):
    """Return all images of a folder in the order of their names, and the data set."""
    found = data.load(folder, images=ImageOptions(**options))
    return torch.cat((found.train, found.test)), found


def pair(tmp_path, name, image, **options):
    """Write an image twice, since one is needed to test on."""
    for i in range(2):
        image.save(tmp_path / f"{i}{name}", **options)
    return tmp_path


def png(bits, colour_type, array, said=None):
    """A PNG file of any depth, which Pillow does not write; `said`: the width and height that its header has."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    width, height = said or array.shape[1::-1]
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in array)
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in parts)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF", ".webp"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_lossless_files_hold_their_pixels(pixels, suffix, tmp_path):
    pair(tmp_path, suffix, Image.fromarray(pixels), **({"lossless": True} if suffix == ".webp" else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # WebP has no grey: one channel of three is kept
        x, found = loaded(tmp_path)
    expected = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    assert found.n_levels == 256
    assert found.n_classes is None
    for image in x:
        assert np.array_equal(image, expected)


def test_jpeg_is_what_pillow_decodes(tmp_path):
    pair(tmp_path, ".jpg", Image.fromarray(COLOUR))
    x, _ = loaded(tmp_path)
    with Image.open(tmp_path / "0.jpg") as image:
        assert np.array_equal(x[0], np.asarray(image).transpose(2, 0, 1))


def test_palettes_truth_values_and_cmyk(tmp_path):
    flat = Image.fromarray(COLOUR).quantize(8)
    x, _ = loaded(pair(tmp_path, ".gif", flat))
    assert np.array_equal(x[0], np.asarray(flat.convert("RGB")).transpose(2, 0, 1))
    (tmp_path / "b").mkdir()
    x, _ = loaded(pair(tmp_path / "b", ".png", Image.fromarray(GREY > 127)))
    assert np.array_equal(x[0, 0], (GREY > 127) * 255)
    (tmp_path / "c").mkdir()
    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    x, _ = loaded(pair(tmp_path / "c", ".tif", cmyk))
    assert np.array_equal(x[0], np.asarray(cmyk.convert("RGB")).transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_16_bits_keeps_all_of_them(suffix, tmp_path):
    pixels = RNG.integers(0, 65536, (5, 3), np.uint16)
    pixels[0, :2] = 0, 65535
    x, found = loaded(pair(tmp_path, suffix, Image.fromarray(pixels)))
    assert (found.n_levels, x.dtype) == (65536, torch.float32)
    assert np.array_equal(x[0, 0], pixels)


def test_colour_of_16_bits_loses_half_of_them_aloud(tmp_path):
    pixels = RNG.integers(0, 65536, (5, 3, 3), np.uint16)
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png(16, 2, pixels))
    with pytest.warns(RuntimeWarning, match="2 of the 2 images of .* have 16 bits for each colour"):
        x, found = loaded(tmp_path)
    assert found.n_levels == 256
    assert np.array_equal(x[0], (pixels >> 8).transpose(2, 0, 1))


def test_what_is_transparent_is_put_on_white(tmp_path):
    pixels = np.concatenate((COLOUR, np.full((6, 4, 1), 255, np.uint8)), 2)
    pixels[0, 0, 3], pixels[1, 1] = 0, (0, 0, 0, 51)
    with pytest.warns(RuntimeWarning, match="2 of the 2 images of .* transparent"):
        x, _ = loaded(pair(tmp_path, ".png", Image.fromarray(pixels)))
    expected = COLOUR.copy()
    expected[0, 0], expected[1, 1] = 255, 204  # 51 / 255 of black
    assert np.array_equal(x[0], expected.transpose(2, 0, 1))


def test_grey_with_opacity_stays_grey(tmp_path):
    pixels = np.stack((GREY, np.full_like(GREY, 255)), 2)
    x, _ = loaded(pair(tmp_path, ".png", Image.fromarray(pixels, "LA")))
    assert np.array_equal(x[0], GREY[None])


def test_an_image_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: to be turned clockwise
    x, found = loaded(pair(tmp_path, ".png", Image.fromarray(GREY), exif=exif.tobytes()))
    assert found.event_shape == (1, 4, 6)
    assert np.array_equal(x[0, 0], np.rot90(GREY, -1))


@pytest.mark.filterwarnings("ignore:.* are all grey:RuntimeWarning")  # GIF has palettes only
def test_only_the_first_frame_is_read(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (10, 200)]
    with pytest.warns(RuntimeWarning, match="2 of the 2 images .* several frames"):
        x, _ = loaded(pair(tmp_path, ".gif", frames[0], save_all=True, append_images=frames[1:]))
    assert (x == 10).all()


def test_grey_among_colours_is_colour_and_both_can_be_asked_for(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "0.png")
    Image.fromarray(COLOUR).save(tmp_path / "1.png")
    x, _ = loaded(tmp_path)
    assert x.shape[1] == 3
    x, _ = loaded(tmp_path, mode="grey")
    both = {tuple(image.flatten().tolist()) for image in x}
    assert both == {tuple(np.asarray(image).flatten()) for image in (GREY, Image.fromarray(COLOUR).convert("L"))}


def test_colours_that_are_all_grey_are_one_channel_aloud(tmp_path):
    pair(tmp_path, ".png", Image.fromarray(np.stack([GREY] * 3, 2)))
    with pytest.warns(RuntimeWarning, match="all grey"):
        x, _ = loaded(tmp_path)
    assert x.shape[1] == 1
    x, _ = loaded(tmp_path, mode="colour")
    assert x.shape[1] == 3


def test_sizes_that_differ_need_a_size(tmp_path):
    for i, size in enumerate([(4, 6), (4, 6), (8, 5)]):
        Image.fromarray(np.full(size, 7 * i, np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match=r"one height and width, got 2 of 4 x 6, 1 of 8 x 5; pass .*--image-size"):
        data.load(tmp_path)
    x, _ = loaded(tmp_path, size=(4, 4))
    assert x.shape == (3, 1, 4, 4)
    assert sorted(x[:, 0, 0, 0].tolist()) == [0, 7, 14]  # a constant stays one
    assert (x == x[:, :, :1, :1]).all()


def test_resizing_keeps_the_middle_and_the_mean(tmp_path):
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 100  # all that is left of a square
    x, _ = loaded(pair(tmp_path, ".png", Image.fromarray(wide)), size=(2, 2))
    assert (x == 100).all()
    (tmp_path / "fine").mkdir()
    stripes = np.tile(np.array([0, 200], np.uint8), (32, 16))  # finer than the pixels of the result
    x, _ = loaded(pair(tmp_path / "fine", ".png", Image.fromarray(stripes)), size=(8, 8))
    assert (x[..., 1:-1] == 100).all()


def test_subfolders_are_classes(tmp_path):
    for name, level in [("b", 1), ("a", 0), ("c", 2)]:
        (tmp_path / name / "deep").mkdir(parents=True)
        for i in range(4):
            image = Image.fromarray(np.full((2, 2), level, np.uint8))
            image.save(tmp_path / name / ("deep" * (i > 2)) / f"{i}.png")
    found = data.load(tmp_path)
    assert (found.n_classes, found.class_names) == (3, ("a", "b", "c"))
    assert len(found.train) + len(found.test) == 12
    for x, labels in ((found.train, found.train_labels), (found.test, found.test_labels)):
        assert x[:, 0, 0, 0].tolist() == labels.tolist()


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize("classes", [("",), ("a", "b")])
def test_parts_are_those_of_the_folder(classes, test, tmp_path):
    for part, level in (("train", 3), (test, 5)):
        for name in classes:
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
            pair(tmp_path / part / name, ".png", Image.fromarray(np.full((2, 2), level, np.uint8)))
    found = data.load(tmp_path)
    assert (len(found.train), len(found.test)) == (2 * len(classes),) * 2
    assert (found.train == 3).all()
    assert (found.test == 5).all()
    assert found.n_classes == (2 if len(classes) > 1 else None)


def test_the_split_is_that_of_the_seed(tmp_path):
    for i in range(20):
        Image.fromarray(np.full((2, 2), i, np.uint8)).save(tmp_path / f"{i:02}.png")
    first, again, other = (data.load(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert len(first.test) == 2
    assert torch.equal(first.test, again.test)
    assert not torch.equal(first.test, other.test)
    assert sorted(torch.cat((first.train, first.test))[:, 0, 0, 0].tolist()) == list(range(20))


def test_what_is_no_image_is_counted(tmp_path):
    pair(tmp_path, ".png", Image.fromarray(GREY))
    for name in (".DS_Store", "notes.txt", "more.txt"):
        (tmp_path / name).write_text("text")
    with pytest.warns(RuntimeWarning, match=r"3 entries of .* were left out \(2 .txt, 1 hidden\)") as caught:
        data.load(tmp_path)
    assert len(caught) == 1


def test_a_third_part_and_a_class_without_images_are_told(tmp_path):
    for name in ("train/a", "train/b", "test/a", "val/a"):
        (tmp_path / name).mkdir(parents=True)
        pair(tmp_path / name, ".png", Image.fromarray(GREY))
    (tmp_path / "train" / "c").mkdir()
    with pytest.warns(RuntimeWarning, match=r"2 entries .* \(1 folder c without images, 1 folder val\)"):
        found = data.load(tmp_path)
    assert found.class_names == ("a", "b")


def test_a_folder_in_a_folder_is_entered(tmp_path):
    inside = tmp_path / "photos" / "photos"
    inside.mkdir(parents=True)
    pair(inside, ".png", Image.fromarray(GREY))
    assert len(data.load(tmp_path).train) == 1


def _truncated(folder):
    content = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(content[: len(content) // 2])


def _text(folder):
    (folder / "0.png").write_text("text")


def _long(folder):
    Image.fromarray(GREY.astype(np.uint16)).save(folder / "0.png")


def _class(folder):
    (folder / "a").mkdir()
    Image.fromarray(GREY).save(folder / "a" / "0.png")


def _empty(folder):
    for path in folder.iterdir():
        path.unlink()


def _one(folder):
    (folder / "0.png").unlink()


def _huge(folder):
    (folder / "0.png").write_bytes(png(8, 0, GREY, (60000, 60000)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncated, r"0\.png must be a whole image, got a damaged one"),
        (_text, r"0\.png must be an image in PNG, .*, got another"),
        (_long, r"8 or of 16 bits, got 1 of 16 among 2"),
        (_class, "either images or one subfolder of images for each class, got 2 images"),
        (_empty, r"must hold images \(\.png, .*\), got none"),
        (_one, "at least 2 images, one to test on, got 1"),
        (_huge, r"0\.png must have at most \d+ pixels, got more"),
    ],
)
def test_errors(damage, message, tmp_path):
    pair(tmp_path, ".png", Image.fromarray(GREY))
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)


def test_a_part_without_training_data_or_with_another_class(tmp_path):
    for name in ("test", "val"):
        (tmp_path / name).mkdir()
        pair(tmp_path / name, ".png", Image.fromarray(GREY))
    with pytest.raises(DataError, match="must hold a folder train beside test"):
        data.load(tmp_path)
    for part, name in (("train", "a"), ("test", "b")):
        (tmp_path / "two" / part / name).mkdir(parents=True)
        pair(tmp_path / "two" / part / name, ".png", Image.fromarray(GREY))
    with pytest.raises(DataError, match=r"classes of the part to train on .*, got b beside a"):
        data.load(tmp_path / "two")


def test_images_must_fit_in_memory(tmp_path, monkeypatch):
    pair(tmp_path, ".png", Image.fromarray(GREY))
    monkeypatch.setattr("iresnet_fast.data.folder.half_of_memory", lambda: 47)
    with pytest.raises(DataError, match="must fit in half of the memory, 47 bytes, got 2 images of 6 x 4, 48 bytes"):
        data.load(tmp_path)


def test_without_pillow_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    pair(tmp_path, ".png", Image.fromarray(GREY))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'iresnet_fast\[pictures\]'"):
        data.load(tmp_path)


def test_options_of_images_are_refused_for_other_data():
    with pytest.raises(DataError, match="size must be left out for digits"):
        data.load("digits", images=ImageOptions(size=(4, 4)))
