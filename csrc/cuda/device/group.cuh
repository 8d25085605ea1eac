// A group: adjacent columns of one row that a thread loads and stores together, 16 bytes, or the 8 bytes of a
// tensor-core fragment (device/tile.cuh).
#pragma once

#include "cuda/device/device.cuh"

namespace irf::cuda {

template <int WIDTH, class T>
__device__ __forceinline__ void load_group(T* to, const T* from) {
  if constexpr (WIDTH == kVector<T>) {
    const Vector<T> v = load16(from);
#pragma unroll
    for (int e = 0; e < WIDTH; ++e) to[e] = v[e];
  } else {
    const float2 v = *reinterpret_cast<const float2*>(from);
    to[0] = v.x, to[1] = v.y;
  }
}

// From memory that nobody writes during the launch.
template <int WIDTH, class T>
__device__ __forceinline__ void load_group_readonly(T* to, const T* from) {
  if constexpr (WIDTH == kVector<T>) {
    const Vector<T> v = load16_readonly(from);
#pragma unroll
    for (int e = 0; e < WIDTH; ++e) to[e] = v[e];
  } else {
    const float2 v = __ldg(reinterpret_cast<const float2*>(from));
    to[0] = v.x, to[1] = v.y;
  }
}

template <int WIDTH, class T>
__device__ __forceinline__ void store_group(T* to, const T* from) {
  if constexpr (WIDTH == kVector<T>) {
    Vector<T> v;
#pragma unroll
    for (int e = 0; e < WIDTH; ++e) v[e] = from[e];
    store16(to, v);
  } else {
    *reinterpret_cast<float2*>(to) = make_float2(from[0], from[1]);
  }
}

}  // namespace irf::cuda
