// The sum over a block, in a fixed order.
#pragma once

#include "cuda/device/device.cuh"

namespace irf::cuda {

// Every thread gets the sum; `partial` holds one element per warp and is free again on return.
template <class T>
__device__ __forceinline__ T block_sum(T v, T* partial) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  v = sum_lanes(v);
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = v;
  __syncthreads();
  T sum = T(0);
  for (int i = 0; i < warps; ++i) sum += partial[i];
  __syncthreads();
  return sum;
}

}  // namespace irf::cuda
