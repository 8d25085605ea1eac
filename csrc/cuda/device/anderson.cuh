// Anderson acceleration on a GPU (iresnet_fast/anderson.h): the history lies in global memory, where it does not take
// shared memory from weights, and every thread reads and writes its own vectors of it.
#pragma once

#include "cuda/device/device.cuh"
#include "iresnet_fast/anderson.h"

namespace irf::cuda {

// kHistory iterates of a sample, then as many residuals, in the order of their evaluations.
template <class T>
struct History {
  T* vectors;
  int64_t stride;  // from one to the next
  int newest;

  __device__ __forceinline__ History(T* vectors_, int64_t stride_, int64_t evaluation)
      : vectors(vectors_), stride(stride_), newest(static_cast<int>(evaluation % kHistory)) {}
  __device__ __forceinline__ T* x(int back) const {
    return vectors + (newest < back ? newest - back + kHistory : newest - back) * stride;
  }
  __device__ __forceinline__ T* r(int back) const { return x(back) + kHistory * stride; }
};

// Adds to `sums` what a step needs of one vector of the residuals that count.
template <class T>
__device__ __forceinline__ void add_step_sums(const History<T>& history, int at, int seen, T (&sums)[kStepSums]) {
  const Vector<T> first = load16(history.r(0) + at);
  Vector<T> difference[kWindow], r = first;
#pragma unroll
  for (int i = 0; i < kWindow; ++i) {
    const Vector<T> older = i + 1 < seen ? load16(history.r(i + 1) + at) : r;
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) difference[i][e] = r[e] - older[e];
    r = older;
  }
#pragma unroll
  for (int i = 0; i < kWindow; ++i)
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) {
#pragma unroll
      for (int k = 0; k <= i; ++k) sums[gram_place(i, k)] += difference[i][e] * difference[k][e];
      sums[kGram + i] += difference[i][e] * first[e];
    }
}

// Subtracts from `move` what the weights make of the differences of iterates and residuals.
template <class T>
__device__ __forceinline__ void subtract_step(const History<T>& history, int at, int seen, const T (&weight)[kWindow],
                                              Vector<T>& move) {
  Vector<T> sum;
#pragma unroll
  for (int i = 0; i <= kWindow; ++i) {
    if (i >= seen) break;
    const Vector<T> x = load16(history.x(i) + at), r = load16(history.r(i) + at);
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) {
      const T image = x[e] + r[e];
      if (i > 0) move[e] -= weight[i - 1] * (sum[e] - image);
      sum[e] = image;
    }
  }
}

}  // namespace irf::cuda
