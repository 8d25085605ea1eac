"""Spectral norms and normalisation."""

from __future__ import annotations

from collections.abc import Iterator

from .table import Mutant


def norms() -> Iterator[Mutant]:
    """Return mutants of the power iteration."""
    norm = ("norms/spectral_norm.cu", "test_spectral_norm.py", "(test_matches or out_of_shared) and dtype0 and not -0]")
    group = ("norms/spectral_norm.cu", *norm)
    yield Mutant(*group, "    __syncthreads();\n    map.apply", "    map.apply")
    yield Mutant(*group, "iteration < most));\n    __syncthreads();\n", "iteration < most));\n")
    yield Mutant(*group, "  __syncthreads();  // copies may be cut into other pieces than the loop above\n")
    rescaled = (*group[:2], "test_weights_of_any_size and 1e+30")
    yield Mutant("norms/spectral_norm.cu", *rescaled, "  __syncthreads();\n}\n\n// Results go", "}\n\n// Results go")
    yield Mutant("norms/spectral_norm.cu", *rescaled, "factor == T(1) && (transposed ?", "(transposed ?")
    yield Mutant(*group, "  __syncthreads();\n  T* shared", "  T* shared")
    group = ("norms/matrix_map.cuh", *norm)
    yield Mutant(*group, "      __syncthreads();\n      for (int slot", "      for (int slot")
    yield Mutant(*group, "      __syncthreads();\n    }\n  }\n", "    }\n  }\n")
    yield Mutant(*group, "      __pipeline_wait_prior(0);\n")
    yield Mutant(*group, "if (k < columns) image[k] = total;", "image[k] = total;")
    yield Mutant(*group, "step(k) < room ? __ldg(row + step(k)) : T(0)", "__ldg(row + step(k))")
    yield Mutant(*group, "if (lane == r && first + r < rows)", "if (lane == r)")
    group = ("norms/convolution_map.cuh", *norm)
    yield Mutant(*group, "        if (turn > 0) __syncthreads();\n")
    yield Mutant(
        *group, "transposed);\n    __syncthreads();\n    const int source_at", "transposed);\n    const int source_at"
    )
    yield Mutant(
        *group,
        "    find_sources(task.layer, d, sources);\n    __syncthreads();\n",
        "    find_sources(task.layer, d, sources);\n",
    )
    yield Mutant(*group, "return from < size ? from : -1;", "return from;")
    yield Mutant(*group, "      if (channel + i >= d.target_channels) break;\n")
    yield Mutant(*group, "if (slot + p * d.slots < pixels) image", "image")
    yield Mutant(*group, "if (from * stride != at - tap_offset) return -1;")


def lanczos() -> Iterator[Mutant]:
    """Return mutants of the Lanczos iteration."""
    tests = ("norms/lanczos_norm.cu", "test_lanczos_norm.py", "(test_matches and dtype0 and -3]) or begins_anew")
    yield Mutant(
        "norms/lanczos_norm.cu", *tests, "  }\n  __syncthreads();\n  const LanczosNorm", "  }\n  const LanczosNorm"
    )
    group = ("norms/lanczos_block.cuh", *tests)
    yield Mutant(*group, "      __syncthreads();\n      gram(map);", "      gram(map);")
    yield Mutant(*group, "lead(leading);\n      __syncthreads();\n", "lead(leading);\n")
    entry = ("norms/largest_entry.cuh", *tests)
    yield Mutant(*entry, "= most;\n  __syncthreads();\n  for", "= most;\n  for")
    yield Mutant(*entry, "partial[i] : most;\n  __syncthreads();\n", "partial[i] : most;\n")
    yield Mutant(*group, "      __syncthreads();\n      map.apply", "      map.apply")
    yield Mutant(*group, "!left());\n      __syncthreads();\n", "!left());\n")
    yield Mutant(*group, "++used, ++steps;\n    }\n    __syncthreads();\n", "++used, ++steps;\n    }\n")
    yield Mutant(
        *group,
        "      __syncthreads();\n      add_combination(coordinates, count",
        "      add_combination(coordinates, count",
    )
    yield Mutant(
        *group,
        "      __syncthreads();\n      each(size(), [&](int i) { row.companion",
        "      each(size(), [&](int i) { row.companion",
    )
    yield Mutant(*group, "if (image != target) target[i] = entry;")
    yield Mutant(*group, "vector(0)[i] = y[i]; });", "vector(0)[i] = T(1); });")
    long = ("norms/lanczos_block.cuh", *tests[:2], "stays_orthogonal or scaled_weights")
    yield Mutant(*long, "      add_combination(coordinates, count, T(-1), w);\n")
    yield Mutant(*long, "const T rest = factor * from[i] / sigma", "const T rest = from[i] / sigma")
    hints = ("norms/largest_entry.cuh", *tests[:2], "bad_hints or without_a_norm")
    yield Mutant(*hints, "return most + block_sum(poison, partial);", "return most;")
    group = ("norms/fingerprint.cu", "norms/fingerprint.cu", "test_fingerprint.py", "to_the_bit or many_layers")
    yield Mutant(*group, "aligned && 8 * (i + 1) <= layer.size", "8 * (i + 1) <= layer.size")
    yield Mutant(*group, "aligned && 8 * (i + 1) <= layer.size", "aligned")
    yield Mutant(*group, "op.result + first", "op.result")


def normalisation() -> Iterator[Mutant]:
    """Return mutants of the normalised weights and their gradient."""
    group = (
        "norms/spectral_normalize.cu",
        "norms/spectral_normalize.cu",
        "test_spectral_normalize.py",
        "match_reference and dtype0",
    )
    yield Mutant(
        *group, "if (i < whole) piece[k] = load16_readonly(source + i);", "piece[k] = load16_readonly(source + i);"
    )
    yield Mutant(
        *group,
        "if (i >= whole) continue;\n#pragma unroll\n    for (int j = 0; j < kVector<T>; ++j) piece",
        "#pragma unroll\n    for (int j = 0; j < kVector<T>; ++j) piece",
    )
    yield Mutant(*group, "size - start < kChunk<T> ? static_cast<int>(size - start) : kChunk<T>", "kChunk<T>")
    yield Mutant(*group, "  if (tile >= sigma_gradient_tiles(layer)) return;\n")
    yield Mutant(*group, "if (at >= 0) row.result", "row.result")
    yield Mutant(*group, "const int line = (first_column + i) / columns", "const int line = i / columns")
    group = ("norms/sigma_gradient.cuh", *group[1:])
    yield Mutant(*group, "return o < out && k < row_size ?", "return k < row_size ?")
    yield Mutant(*group, "at_y >= 0 && at_y < l.height &&", "at_y >= 0 &&")
    yield Mutant(*group, "at_x >= 0 && at_x < l.width;", "at_x < l.width;")
    yield Mutant(*group, "min(start.out + i, out - 1)", "(start.out + i)")
