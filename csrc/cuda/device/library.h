// Products by the libraries that the host program brings: torch's operators, and with them cuBLAS and cuDNN. The
// kernels know this interface only; csrc/torch implements it.
#pragma once

#ifndef SIMT_EMULATED
#include <cuda_runtime_api.h>
#endif

#include <cstdint>

namespace irf::cuda {

// C[row][n] = sum_tap sum_k A[row shifted by tap][k] B[tap][k][n] of float32 numbers, in the layouts of
// layered/product_fetch.cuh.
struct LibraryProduct {
  const float* a;
  const float* b;  // the same for all calls on one object, as far as the pointer is the same
  int depth, pitch, columns;
  int kernel, height, width;
  int64_t items;
  bool allow_tf32;  // operands may be rounded to TF32, and are already
};

class LibraryProducts {
 public:
  virtual ~LibraryProducts() = default;
  // Puts a product on the stream of the call, which writes `sums`, [items * pixels][columns].
  virtual cudaError_t multiply(const LibraryProduct& product, float* sums) = 0;
};

}  // namespace irf::cuda
