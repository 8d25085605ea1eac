// Operands of products (device/pack.h): the rounding of a value, once, as it is stored.
#pragma once

#include "cuda/device/mma.cuh"
#include "cuda/device/pack.h"

namespace irf::cuda {

// Stores a vector of values as operands `at`, ... of `operands`: rounded to `precision`, which is the same for all
// threads.
template <class T>
__device__ __forceinline__ void store_operands(T* operands, int64_t at, Vector<T> values, Precision precision) {
  if constexpr (sizeof(T) == 4) {
    if (precision == Precision::kBf16) {
      store8(reinterpret_cast<Bf16*>(operands) + at, to_bf16_pair(values[0], values[1]),
             to_bf16_pair(values[2], values[3]));
      return;
    }
    if (precision == Precision::kTf32) {
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) values[e] = float_of(to_tf32(values[e]));
    }
  }
  store16(operands + at, values);
}

template <class T>
__device__ __forceinline__ void store_operand(T* operands, int64_t at, T value, Precision precision) {
  if constexpr (sizeof(T) == 4) {
    if (precision == Precision::kBf16) {
      reinterpret_cast<Bf16*>(operands)[at].bits = static_cast<uint16_t>(to_bf16_pair(value, 0.f));
      return;
    }
    if (precision == Precision::kTf32) value = float_of(to_tf32(value));
  }
  operands[at] = value;
}

// What an operand stands for.
__device__ __forceinline__ float value_of(Bf16 operand) { return float_of(unsigned(operand.bits) << 16); }
template <class T>
__device__ __forceinline__ T value_of(T operand) {
  return operand;
}
// What the operands `at`, ... of `operands` stand for: a vector of them, or one.
template <class T>
__device__ __forceinline__ Vector<T> load_operands(const T* operands, int64_t at, Precision precision) {
  if constexpr (sizeof(T) == 4) {
    if (precision == Precision::kBf16) {
      unsigned first, second;
      load8(reinterpret_cast<const Bf16*>(operands) + at, first, second);
      return {{float_of(first << 16), float_of(first & 0xffff0000u), float_of(second << 16),
               float_of(second & 0xffff0000u)}};
    }
  }
  return load16(operands + at);
}
template <class T>
__device__ __forceinline__ T load_operand(const T* operands, int64_t at, Precision precision) {
  if constexpr (sizeof(T) == 4) {
    if (precision == Precision::kBf16) return value_of(reinterpret_cast<const Bf16*>(operands)[at]);
  }
  return operands[at];
}

}  // namespace irf::cuda
