"""CelebA from its folder and its archive; what is wrong with them is said in one sentence."""

import io
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_errors import edit, put, remove, sentence_of, to_folder

from iresnet_fast import data

IMAGES, LIST = "img_align_celeba", "list_eval_partition.txt"
PARTITIONS = [0, 0, 2, 1, 0, 2, 1, 0]
FIRST, LAST = f"{IMAGES}/000001.jpg", "000008.jpg"


def jpeg(pixels, kind="JPEG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=95)
    return file.getvalue()


def flat(value, size=(218, 178)):
    return np.full((*size, 3), value, np.uint8)


def write_celeba(folder, archive=False):
    """Write images of noise, the first with a frame around the square of 140 x 140; return their files."""
    rng = np.random.default_rng(0)
    files = [jpeg(rng.integers(0, 256, (218, 178, 3), np.uint8)) for _ in PARTITIONS]
    framed = flat(255)
    framed[39:179, 19:159] = (40, 80, 120)
    files[0] = jpeg(framed)
    named = {f"{number:06}.jpg": file for number, file in enumerate(files, 1)}
    (folder / IMAGES).mkdir(parents=True)
    for name, content in named.items():
        (folder / IMAGES / name).write_bytes(content)
    (folder / LIST).write_text("".join(f"{name} {part}\n" for name, part in zip(named, PARTITIONS, strict=True)))
    if archive:
        pack(folder)
    return named


def pack(folder, inside=IMAGES):
    """The archive in place of the folder, made as the published one is: with an entry for the folder."""
    with zipfile.ZipFile(folder / f"{IMAGES}.zip", "w") as file:
        file.writestr(f"{inside}/", b"")
        for path in sorted((folder / IMAGES).iterdir()):
            file.write(path, f"{inside}/{path.name}")
    shutil.rmtree(folder / IMAGES)


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("folder", ["", "celeba"])
def test_celeba(tmp_path, folder, archive):
    """Partition 0 to train on, 2 to test on, in the order of the list, colours first."""
    named = write_celeba(tmp_path / folder, archive)
    loaded = data.load("celeba", tmp_path)
    assert (loaded.name, loaded.n_levels, loaded.n_classes, loaded.train_labels) == ("celeba", 256, None, None)
    assert (loaded.train.shape, loaded.test.shape) == ((4, 3, 64, 64), (2, 3, 64, 64))
    assert loaded.train.dtype == loaded.test.dtype == torch.uint8
    for images, partition in ((loaded.train, 0), (loaded.test, 2)):
        files = [file for file, part in zip(named.values(), PARTITIONS, strict=True) if part == partition]
        for image, file in zip(images, files, strict=True):
            whole = torch.from_numpy(np.array(Image.open(io.BytesIO(file)))).permute(2, 0, 1)[None].float()
            expected = torch.nn.functional.interpolate(
                whole[:, :, 39:179, 19:159], size=(64, 64), mode="bilinear", antialias=True
            )
            # Pillow rounds after each of its two passes, over columns and rows: half a level each.
            assert (image.float() - expected[0]).abs().max() <= 1.0 + 1e-3


def test_the_square_at_the_centre(tmp_path):
    """Nothing of the frame around it is seen, and it would be if the square were a pixel further."""
    named = write_celeba(tmp_path)
    first = data.load("celeba", tmp_path).train[0].float()
    inner = first[:, 4:-4, 4:-4]
    assert (inner - torch.tensor([40.0, 80.0, 120.0])[:, None, None]).abs().max() <= 3  # what JPEG leaves
    framed = np.array(Image.open(io.BytesIO(named["000001.jpg"])))
    for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        (tmp_path / FIRST).write_bytes(jpeg(np.roll(framed, shift, (0, 1))))
        moved = data.load("celeba", tmp_path).train[0].float()
        assert (moved - first).abs().max() > 30


def change_list(change):
    return edit(LIST, lambda content: change(content.decode()).encode())


def replace(content):
    return put(FIRST, content)


def archive(change=lambda content: content, inside=IMAGES):
    def damage(folder):
        pack(folder, inside)
        path = folder / f"{IMAGES}.zip"
        path.write_bytes(change(path.read_bytes()))

    return damage


def flip(content):
    """Change a byte of the pixels of the first image in an archive."""
    at = content.index(b"\xff\xda") + 30
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


# how it is damaged, the file named, words of the sentence
DAMAGES = {
    "no list": (remove(LIST), "", [LIST, "got none of them"]),
    "no images": (lambda folder: shutil.rmtree(folder / IMAGES), "", [f"{IMAGES} or {IMAGES}.zip", "got neither"]),
    "list: folder": (to_folder(LIST), LIST, ["must be a file", "got a folder"]),
    "list: empty": (put(LIST, b""), LIST, ["images of partition 0, training", "got none"]),
    "list: cut in a line": (change_list(lambda text: text[:-3]), LIST, ["in line 8", f"got '{LAST}'"]),
    "list: cut after a line": (
        change_list(lambda text: text[: text.index(LAST)]), LIST, ["the 8 images", f"no line for {LAST}, 1 are"]
    ),
    "list: partition": (change_list(lambda text: text.replace("jpg 1", "jpg 3")), LIST, ["0, 1 or 2 in line 4"]),
    "list: no test": (
        change_list(lambda text: text.replace("jpg 2", "jpg 1")), LIST, ["images of partition 2, test", "got none"]
    ),
    "list: twice": (change_list(lambda text: text + f"{LAST} 0\n"), LIST, ["once", f"got {LAST} again in line 9"]),
    "list: no text": (put(LIST, b"\x89PNG\0\xff" * 99), LIST, ["0, 1 or 2 in line 1"]),
    "missing": (remove(FIRST), IMAGES, ["the 8 images", LIST, "got no 000001.jpg, 1 are missing"]),
    "truncated": (edit(FIRST, lambda b: b[: len(b) // 2]), FIRST, ["whole JPEG image", "truncated"]),
    "empty": (replace(b""), FIRST, ["must be a JPEG image", "got another file"]),
    "a folder": (to_folder(FIRST), FIRST, ["must be a file", "got a folder"]),
    "magic": (edit(FIRST, lambda b: b"\0" + b[1:]), FIRST, ["must be a JPEG image", "got another file"]),
    "PNG": (replace(jpeg(flat(9), kind="PNG")), FIRST, ["must be a JPEG image", "got another file"]),
    "grey": (replace(jpeg(flat(9)[..., 0])), FIRST, ["178 x 218 pixels in RGB", "got 178 x 218 in L"]),
    "not aligned": (replace(jpeg(flat(9, (64, 48)))), FIRST, ["178 x 218 pixels in RGB", "got 48 x 64 in RGB"]),
    "zip: truncated": (archive(lambda b: b[:-20]), f"{IMAGES}.zip", ["whole zip archive"]),
    "zip: empty": (archive(lambda b: b""), f"{IMAGES}.zip", ["whole zip archive", "not a zip file"]),
    "zip: other folder": (archive(inside="images"), f"{IMAGES}.zip", ["the 8 images", "got no 000001.jpg, 8 are"]),
    "zip: flipped": (archive(flip), f"{IMAGES}.zip/{FIRST}", ["whole JPEG image", "CRC"]),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(tmp_path, damage):
    apply, file, words = DAMAGES[damage]
    write_celeba(tmp_path)
    data.load("celeba", tmp_path)  # the files are good but for the damage
    apply(tmp_path)
    sentence = sentence_of("celeba", tmp_path)
    assert "object at 0x" not in sentence
    for word in (str(tmp_path / file), *words):
        assert word in sentence


def test_without_pillow(tmp_path, monkeypatch):
    write_celeba(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        data.load("celeba", tmp_path)
    assert str(caught.value).startswith(f"reading {tmp_path}")
    assert str(caught.value).endswith(" needs Pillow, got none; pip install 'iresnet_fast[pictures]'.")
