"""Runs the CUDA kernels on the CPU and checks every access to memory.

| file | idea |
|---|---|
| `translate.py` | rewrites launches and `__shared__` variables; the rest of a kernel is C++ that g++ takes as it is |
| `shim/simt.h`, `cuda_api.h` | CUDA C++ for kernels and their launches |
| `shim/runtime.cpp` | one fiber per thread, one block at a time: barriers, shuffles, launches; every call is recorded |
| `shim/memory.cpp` | shared memory, copies; bounds, initialisation, races of every access; counters per source line |
| `builder.py`, `emulator.py`, `shim/python_api.cpp` | compile it all, call it with tensors as device memory |
| `entries/`, `operands.py` | every op of csrc/cuda/ops.h, as the raw op of csrc/library.cpp |
| `plans.py`, `costs.py`, `one_product.py` | plans, modelled kernels of a step, a product by a chosen route |
| `gpu.py`, `on_gpu/` | the same entries compiled by nvcc, for the same tests on a GPU; a program for NVIDIA's tools |
| `kernels/`, `test_shim.py` | planted bugs, known traffic: the tests of the emulator itself |

Not emulated: time, weak memory order (blocks that synchronise through fences count as racing), wmma, TMA, clusters,
mbarrier, named barriers and grid-wide ones.
"""
