// The size of a weight, which one block looks through.
#pragma once

#include "cuda/device/block_sum.cuh"
#include "cuda/norms/norm_plan.h"

namespace irf::cuda {
namespace {

// The entry of largest magnitude, NaN if one is not finite.
template <class T>
__device__ __forceinline__ T largest_entry(const NormLayer<T>& layer, T* partial) {
  int64_t count = int64_t(layer.out_channels) * layer.in_channels;
  if (layer.height > 0) count = count / layer.groups * layer.kernel_height * layer.kernel_width;
  T most = T(0), poison = T(0);
  for (int64_t i = threadIdx.x; i < count; i += kNormThreads) {
    const T entry = __ldg(layer.weight + i), magnitude = entry < T(0) ? -entry : entry;
    most = magnitude > most ? magnitude : most;
    poison += entry * T(0);
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, most, offset);
    most = other > most ? other : most;
  }
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = most;
  __syncthreads();
  for (int i = 0; i < kNormWarps; ++i) most = partial[i] > most ? partial[i] : most;
  __syncthreads();
  return most + block_sum(poison, partial);
}

}  // namespace
}  // namespace irf::cuda
