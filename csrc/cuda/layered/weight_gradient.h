// The gradients of a stage's parameters: dW[out][in][tap] = sum_row left[row][out] * right[row shifted by tap][in],
// zero outside the image, db[out] = sum_row left[row][out], and the sum of what epilogues left for the activation's
// slope.
//
// An own kernel rather than cuBLAS or cuDNN: it sums both operand pairs of the log-determinant's gradient, the bias and
// the slope in one pass, in an order that never changes, in memory known beforehand; it can be captured in a graph,
// needs no handle, and runs under the emulator of tests/simt like every other kernel.
#pragma once

#include "cuda/device/context.h"
#include "cuda/device/pack.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

// Operands of a pair. The gradient is summed over all pairs; the bias over the first only.
template <class T>
struct RowPair {
  const T* left;   // [rows][left_pitch]
  const T* right;  // [rows][right_pitch]
  int64_t rows;    // a number of whole images; 0 for a pair left out
};

template <class T>
struct WeightGradient {
  int out_channels, in_channels, kernel;
  int height, width;  // 1 x 1 for a dense stage
  int left_pitch, right_pitch;
  Precision precision;  // of the operands
  RowPair<T> pair[2];
  const T* slope_terms;  // [slope_term_count]
  int64_t slope_term_count;
  // Every split of the rows leaves its sums at partial + split * partial_size(): [out][partial_columns()], tap-major,
  // [out] of the bias, one of the slope.
  T* partial;
  int splits;

  // Channels of one tap, so many that 16-byte accesses never straddle two taps.
  IRF_HOST_DEVICE int tap_columns() const {
    const int piece = 16 / static_cast<int>(precision == Precision::kBf16 ? sizeof(Bf16) : sizeof(T));
    return (in_channels + piece - 1) / piece * piece;
  }
  IRF_HOST_DEVICE int partial_columns() const { return kernel * kernel * tap_columns(); }
  IRF_HOST_DEVICE int64_t partial_size() const {  // in whole cache lines
    return (int64_t(partial_columns() + 1) * out_channels + 1 + 31) / 32 * 32;
  }
};

// How many splits keep the card busy. Looks at the sizes only.
template <class T>
int weight_gradient_splits(const WeightGradient<T>&, const Card&);

template <class T>
cudaError_t weight_gradient(const WeightGradient<T>&, cudaStream_t);

// Adds up the splits of every stage into the packed result of branch_backward: weights, shared biases and betas.
template <class T>
cudaError_t gather_gradients(const Branch<T>&, const WeightGradient<T>* stages, T* result, cudaStream_t);
// The same of one gradient that is no stage's: [out][in][tap].
template <class T>
cudaError_t gather_gradient(const WeightGradient<T>&, T* result, cudaStream_t);

}  // namespace irf::cuda
