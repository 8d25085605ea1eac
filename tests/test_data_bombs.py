"""Small files that ask for much are refused in one sentence, in little memory and time."""

import gc
import gzip
import pickle
import struct
import tarfile
import zipfile
import zlib

import mutations
import numpy as np
import pytest
import test_data_celeba as celeba
from data_formats import BATCH, FORMATS, IMAGES, MAT, write_table
from test_data_errors import put, sentence_of

from iresnet_fast import data


def repack(path, change):
    """Change what a .gz file holds."""
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


def zeros(gigabytes):
    """So many zeros, packed: a gzip file can be several in a row."""
    return gzip.compress(bytes(1 << 24)) * (64 * gigabytes)


def tar_header(name, size, kind=b"0"):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def mat_element(name, shape, size, body):
    """A packed array of bytes of this name and shape, which says it has `size` of them and has `body`."""
    parts = [(6, struct.pack("<II", 9, 0)), (5, struct.pack(f"<{len(shape)}i", *shape)), (1, name.encode())]
    head = b"".join(struct.pack("<II", kind, len(part)) + part + bytes(-len(part) % 8) for kind, part in parts)
    matrix = head + struct.pack("<II", 2, size % (1 << 32)) + body
    packed = zlib.compress(struct.pack("<II", 14, (len(head) + 8 + size) % (1 << 32)) + matrix)
    return struct.pack("<II", 15, len(packed)) + packed


def mat_file(folder, *elements):
    (folder / MAT).write_bytes((folder / "test_32x32.mat").read_bytes()[:128] + b"".join(elements))


def jpeg_of(width, height):
    def damage(folder):
        path = folder / celeba.FIRST
        content = bytearray(path.read_bytes())
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = struct.pack(">HH", height, width)
        path.write_bytes(content)

    return damage


def npy_of(shape, descr="<f8"):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + bytes(64)


def npz_of(*members, method=zipfile.ZIP_DEFLATED):
    def damage(folder):
        with zipfile.ZipFile(folder / "table.npz", "w", method) as archive:
            for name, content in members:
                archive.writestr(name, content)

    return damage


def npz_that_says(size):
    """The size of the array in the directory of the archive is another."""

    def damage(folder):
        content = bytearray((folder / "table.npz").read_bytes())
        at = content.rindex(b"PK\1\2")
        content[at + 24 : at + 28] = struct.pack("<I", size)
        (folder / "table.npz").write_bytes(content)

    return damage


DTYPE = b"cnumpy\ndtype\n(Vu1\nI00\nI01\ntR(I3\nV|\nNNNI-1\nI-1\nI0\ntb"
DEEP = b"N" + b"\x85" * 200_000  # a tuple in a tuple in a tuple ...
TEXT = struct.pack("<I", 1 << 22) + b"a" * (1 << 22)  # with its length
PICKLES = {
    "deep tuple in a set": b"\x80\x04(" + DEEP + b"\x91.",
    "deep tuple as a key": b"\x80\x04}" + DEEP + b"K\1s.",
    "deep tuple in a dict": b"\x80\x04(" + DEEP + b"K\1d.",
    "deep list": b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "bytes": b"\x8e" + struct.pack("<Q", 1 << 31),
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 31),
    "text": b"\x8d" + struct.pack("<Q", (1 << 63) - 1) + b"x",
    "negative length": b"T" + struct.pack("<i", -5) + b"x" * 20 + b".",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
    "memo": b"Nr\xff\xff\xff\x7f.",
    "memo in text": b"Np99999999999\n.",
    "long digits": b"I" + b"9" * 10_000_000 + b"\n.",
    "shape": b"cnumpy.core.numeric\n_frombuffer\n(C\1a" + DTYPE + b"(I1000000000000\ntVC\ntR.",
    "negative shape": b"cnumpy.core.numeric\n_frombuffer\n(C\1a" + DTYPE + b"(I-1\nI-1\ntVC\ntR.",
    "objects": b"cnumpy\ndtype\n(VO8\nI00\nI01\ntR(I3\nV|\nNNNI-1\nI-1\nI63\ntb.",
    "array of objects": pickle.dumps({"data": np.array([1, "a"], object), "labels": [1]}),
    "set": pickle.dumps({"data": {1, 2}}),
    "call": b"cos\nsystem\n(Vtrue\ntR.",
    "call by value": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "new": b"\x80\x02cbuiltins\nobject\n)\x81.",
    "state of a function": b"cnumpy\ndtype\n}(Va\nNub.",
    "nothing to pop": b"a.",
    "mark lost": b"K\1(a.",
    "many instructions": b"N" * 10_000_000,
    # Each use of what was remembered makes a copy.
    "product of long sizes": b"cnumpy.core.numeric\n_frombuffer\n(C\1a"
    + DTYPE
    + b"(\x8b"
    + struct.pack("<i", 1 << 20)
    + b"\1" * (1 << 20)
    + b"q\1"
    + b"h\1" * 20_000
    + b"tVC\ntR.",
    "a text encoded often": b"c_codecs\nencode\nq\1(X" + TEXT + b"Vlatin1\ntq\2R" + b"h\1h\2R" * 1000 + b".",
    "a long kind of numbers": b"cnumpy\ndtype\nq\1(T"
    + struct.pack("<i", 60_000)
    + b"u" * 60_000
    + b"NNtq\2R"
    + b"h\1h\2R" * 50_000
    + b".",
    "a long name": b"\x80\x04X" + TEXT + b"\x94h\0\x93" + b"h\0h\0\x93" * 1000 + b".",
}
BOMBS = {
    "idx: zeros": ("idx.gz", lambda folder: (folder / f"{IMAGES}.gz").write_bytes(zeros(3))),
    "idx: zeros after a header": (
        "idx.gz",
        lambda folder: (folder / f"{IMAGES}.gz").write_bytes(
            gzip.compress(struct.pack(">4I", 0x803, 60_000, 28, 28)) + zeros(3)
        ),
    ),
    "idx: header": ("idx", put(IMAGES, struct.pack(">4I", 0x803, 0xFFFFFFFF, 28, 28) + bytes(100))),
    "idx: header of zeros": (
        "idx.gz",
        lambda folder: (folder / f"{IMAGES}.gz").write_bytes(
            gzip.compress(struct.pack(">4I", 0x803, 4_000_000, 28, 28)) + zeros(3)
        ),
    ),
    "tar: zeros": ("tar", lambda folder: repack(folder / "cifar-10-binary.tar.gz", lambda content: b"")),
    "tar: of zeros": ("tar", lambda folder: (folder / "cifar-10-binary.tar.gz").write_bytes(zeros(3))),
    "tar: a header": (
        "tar", lambda f: repack(f / "cifar-10-binary.tar.gz", lambda _: tar_header("x", (8 << 30) - 1))
    ),
    "tar: a batch": (
        "tar", lambda f: repack(f / "cifar-10-binary.tar.gz", lambda _: tar_header(f"{BATCH}.bin", (8 << 30) - 1))
    ),
    "tar: a long comment": (
        "tar", lambda f: repack(f / "cifar-10-binary.tar.gz", lambda _: tar_header("x", 1 << 29, b"x") + b"1" * 99)
    ),
    "mat: zeros": ("mat", lambda f: mat_file(f, mat_element("X", (32, 32, 3, 10**6), 3072 * 10**6, bytes(1 << 20)))),
    "mat: shape": ("mat", lambda f: mat_file(f, mat_element("X", (32, 32, 3, 2**31 - 1), 3072, bytes(3072)))),
    "mat: product": ("mat", lambda f: mat_file(f, mat_element("X", (-32, -32, 3, 1), 3072, bytes(3072)))),
    "mat: shorter": ("mat", lambda f: mat_file(f, mat_element("X", (32, 32, 3, 9), 3072 * 9, bytes(3072)))),
    "mat: dimensions": (
        "mat", lambda f: mat_file(f, mat_element("X", (32, 32, 3, 1) + (1,) * 100, 3072, bytes(3072)))
    ),
    "mat: twice": ("mat", lambda f: mat_file(f, *[mat_element("X", (32, 32, 3, 1), 3072, bytes(3072))] * 2)),
    "mat: many elements": ("mat", lambda f: mat_file(f, bytes(1 << 20))),
    "mat: longer": ("mat", lambda f: mat_file(f, mat_element("X", (32, 32, 3, 1), 3072, bytes(1 << 27)))),
    "jpeg: large": ("jpeg", jpeg_of(65_000, 65_000)),
    "zip: large": ("zip", lambda folder: zip_of(folder, bytes(1 << 27))),
    "zip: LZMA": ("zip", lambda folder: zip_of(folder, b"x", zipfile.ZIP_LZMA)),
    "npy: shape": ("npy", put("table.npy", npy_of((10**12, 8)))),
    "npy: product": ("npy", put("table.npy", npy_of((-2, -4)))),
    "npy: none of many": ("npy", put("table.npy", npy_of((10**18, 0))[:-64])),
    "npy: dimensions": ("npy", put("table.npy", npy_of((1,) * 70))),
    "npy: large numbers": ("npy", put("table.npy", npy_of((1, 8), "<V2000000000"))),
    "npy: many digits": ("npy", put("table.npy", npy_of("(" + ("9" * 4000 + ",") * 2 + ")"))),
    "npy: deep": ("npy", put("table.npy", npy_of("(" * 9000 + ")" * 9000))),
    "npy: deep sum": ("npy", put("table.npy", npy_of("-" * 9000 + "1"))),
    "npy: deep tuple": ("npy", put("table.npy", npy_of("(" * 4900 + "1" + ",)" * 1500))),
    "npz: zeros": ("npz", npz_of(("train.npy", npy_of((1 << 24, 8)) + bytes(1 << 27)))),
    "npz: directory": ("npz", npz_that_says((1 << 32) - 2)),
    "npz: many names": ("npz", npz_of(*((f"{i}.npy", b"") for i in range(2000)))),
    "npz: BZIP2": ("npz", npz_of(("a.npy", npy_of((1, 8))), method=zipfile.ZIP_BZIP2)),
    "npz: name of lines": ("npz", npz_of(("a\nb\x1b[31m.npy", npy_of((1, 8))))),
    "npz: long name": ("npz", npz_of(("a" * 60_000 + ".npy", npy_of((1, 8))))),
    "list: long name": ("list", put(celeba.LIST, b"a" * (1 << 24) + b" 0\nb 2\n")),
    "csv: columns that do not vary": ("csv", put("table.csv", (b"1," * 10**5 + b"1\n") * 5)),
    "csv: one cell": ("csv", put("table.csv", b"1" * (1 << 24))),
    "csv: no text": ("csv", put("table.csv", bytes(1 << 24))),
    **{f"pickle: {name}": ("pickle", put(BATCH, content)) for name, content in PICKLES.items()},
}  # fmt: skip


# What ends in another sentence too, after more memory or time.
SAID = {
    "pickle: a text encoded often": "it encodes a text again and again",
    "pickle: a long kind of numbers": "a name of 60000 letters",
    "pickle: a long name": "a name of 4194304 letters",
    "mat: twice": "X comes twice",
    "mat: many elements": "it has more than 4096 elements",
}


def zip_of(folder, content, method=zipfile.ZIP_DEFLATED):
    """The archive with other content in place of the first image."""
    path = folder / f"{celeba.IMAGES}.zip"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, good in members.items():
            archive.writestr(name, content if name == celeba.FIRST else good)


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs(bomb, tmp_path):
    """Half a gigabyte is enough to refuse them."""
    kind, apply = BOMBS[bomb]
    write, name, file = FORMATS[kind]
    write(tmp_path)
    assert mutations.outcome(lambda: data.load(name, tmp_path), data.DataError) == "loaded"
    apply(tmp_path)
    assert (tmp_path / file).stat().st_size < 1 << 25
    assert mutations.outcome(lambda: data.load(name, tmp_path), data.DataError, 0.75, 30) == "refused"
    sentence = sentence_of(name, tmp_path)
    assert len(sentence.replace(str(tmp_path), "")) < 600
    assert sentence.isprintable()
    assert SAID.get(bomb, "") in sentence


def test_more_than_there_is_memory_for(tmp_path):
    """A file that is all right on a larger machine."""
    gc.collect()  # garbage of earlier tests that the call frees would be more memory than the limit says
    write_table(tmp_path, array=np.random.default_rng(0).normal(size=(1 << 20, 32)).astype(np.float32))
    assert mutations.outcome(lambda: data.load("table.npy", tmp_path), data.DataError, 4.0) == "loaded"
    assert mutations.outcome(lambda: data.load("table.npy", tmp_path), data.DataError, 0.05) == "refused"
