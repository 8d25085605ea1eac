// Operands of products in bfloat16: two of them in a 32-bit word, multiplied and added to a float32 sum by one
// instruction (AVX512-BF16). Only functions marked IRF_BF16 may contain it: the kernels around them run on any CPU with
// AVX-512.
#pragma once

#include "cpu/simd.h"

namespace irf {
namespace IRF_ISA {
namespace {

#if defined(__AVX512F__)
#define IRF_BF16 __attribute__((target("avx512bf16")))
template <class T>
constexpr bool kBf16Products = sizeof(T) == sizeof(float);
#else
template <class T>
constexpr bool kBf16Products = false;
#endif

// Rounded to nearest, ties to even, as the instruction rounds: the upper half of a float32.
inline uint32_t bf16_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40;  // NaN, which rounding must not make infinite
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

#if defined(__AVX512F__)
// The 16 numbers of `first` rounded, then those of `second`.
IRF_BF16 inline __m512i bf16_vector(__m512 first, __m512 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }

// sum + a_0 b_0 + a_1 b_1 in each 32-bit lane.
IRF_BF16 inline __m512 add_bf16_products(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
#endif

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
