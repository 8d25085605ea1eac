"""Every format of data: how good files are written, what to load, and the file that tests damage."""

import shutil
import zipfile

import data_files
import numpy as np
import pandas
import test_data_celeba as celeba
import test_data_imagenet as imagenet

IMAGES, BATCH, MAT = data_files.IDX[0], "data_batch_2", "train_32x32.mat"


def write_table(folder, name="table.npy", array=None):
    array = np.random.default_rng(0).normal(size=(30, 3)) if array is None else array
    if name.endswith((".csv", ".csv.gz")):
        np.savetxt(folder / name, array, delimiter=",")
    elif name.endswith(".parquet"):
        pandas.DataFrame(array, columns=list("abc")).to_parquet(folder / name)
    elif name.endswith(".arff"):
        head = "".join(f"@attribute {name} real\n" for name in "abc")
        np.savetxt(folder / name, array, delimiter=",", header=f"@relation r\n{head}@data", comments="")
    elif name.endswith(".zip"):
        write_table(folder)
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(folder / "table.npy", "table.npy")
    else:
        {".npy": np.save, ".npz": np.savez}[name[-4:]](folder / name, array)


def write_imagenet(folder):
    imagenet.write_imagenet(folder, folder, 32, True)


def write_zip(folder):
    celeba.write_celeba(folder)
    celeba.pack(folder, celeba.IMAGES)
    shutil.rmtree(folder / celeba.IMAGES, ignore_errors=True)


def write_tar(folder):
    data_files.write_cifar_binary(folder / "cifar-10-batches-bin")
    data_files.write_archive(folder / "cifar-10-binary.tar.gz", folder / "cifar-10-batches-bin")
    shutil.rmtree(folder / "cifar-10-batches-bin")


# Of every format: how good files are written, what to load, and the file that is damaged.
FORMATS = {
    "idx": (data_files.write_mnist, "mnist", IMAGES),
    "idx.gz": (lambda folder: data_files.write_mnist(folder, gz=True), "mnist", f"{IMAGES}.gz"),
    "binary": (data_files.write_cifar_binary, "cifar10", f"{BATCH}.bin"),
    "pickle": (data_files.write_cifar_python, "cifar10", BATCH),
    "tar": (write_tar, "cifar10", "cifar-10-binary.tar.gz"),
    "mat": (data_files.write_svhn, "svhn", MAT),
    "mat, plain": (lambda folder: data_files.write_svhn(folder, compress=False), "svhn", MAT),
    "imagenet": (write_imagenet, "imagenet32", "val_data.npz"),
    "list": (celeba.write_celeba, "celeba", celeba.LIST),
    "jpeg": (celeba.write_celeba, "celeba", celeba.FIRST),
    "zip": (write_zip, "celeba", f"{celeba.IMAGES}.zip"),
    "npy": (write_table, "table.npy", "table.npy"),
    "npz": (lambda folder: write_table(folder, "table.npz"), "table.npz", "table.npz"),
    **{
        kind: (lambda folder, kind=kind: write_table(folder, f"table.{kind}"), f"table.{kind}", f"table.{kind}")
        for kind in ("csv", "csv.gz", "parquet", "arff")
    },
    "table.zip": (lambda folder: write_table(folder, "table.zip"), "table.zip", "table.zip"),
}
