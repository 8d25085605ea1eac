"""Which GPUs are in this machine, asked of the driver: nvidia-smi may be missing where a driver is, in containers."""

import ctypes

# CUdevice_attribute of the driver interface.
_MAJOR, _MINOR = 75, 76


def find_capabilities(driver: str = "libcuda.so.1") -> list[str]:
    """Return the compute capabilities of the GPUs that CUDA_VISIBLE_DEVICES leaves, as ["8.6", "9.0"]; [] without any.

    Args:
        driver: name of the driver's library. No context is made: no memory of a GPU is taken.
    """
    try:
        cuda = ctypes.CDLL(driver)
    except OSError:
        return []
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    found = set()
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        answers = (
            cuda.cuDeviceGet(ctypes.byref(device), index),
            cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
            cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        )
        if not any(answers):
            found.add(f"{major.value}.{minor.value}")
    return sorted(found, key=float)
