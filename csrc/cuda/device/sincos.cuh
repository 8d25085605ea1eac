// sin and cos of a float without a stack: the library's reduction of large arguments indexes an array, which the
// compiler keeps in local memory, and multiplies in double precision.
#pragma once

#ifndef SIMT_EMULATED
#include <cuda_runtime.h>
#endif

#include <cstdint>

namespace irf::cuda {

// 2 / pi in words of 32 bits, lowest first, with a zero on either side (Payne and Hanek's reduction needs four in a
// row).
__constant__ unsigned kTwoOverPi[8] = {0,           0x3c439041u, 0xdb629599u, 0xf534ddc0u,
                                       0xfc2757d1u, 0x4e441529u, 0xa2f9836eu, 0};
constexpr float kReduceInFloat = 32768.f;  // up to here three-part pi / 2 is exact enough

// x = quadrant * pi / 2 + the result, which lies in [-pi / 4, pi / 4]; quadrant modulo 4.
__device__ __forceinline__ float reduce_half_pi(float x, int& quadrant) {
  if (fabsf(x) < kReduceInFloat) {
    const float k = rintf(x * 0.636619772f);
    quadrant = static_cast<int>(k);
    float r = fmaf(k, -1.57079601e+00f, x);
    r = fmaf(k, -3.13916473e-07f, r);
    return fmaf(k, -5.39030253e-15f, r);
  }
  const unsigned bits = static_cast<unsigned>(__float_as_int(x));
  const int exponent = static_cast<int>(bits >> 23 & 0xffu) - 128;
  if (exponent == 127) {  // infinite or NaN
    quadrant = 0;
    return x - x;
  }
  const unsigned mantissa = bits << 8 | 0x80000000u;
  const int first = 4 - exponent / 32, shift = exponent % 32;
  unsigned word[4];
  uint64_t carry = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    carry += static_cast<uint64_t>(mantissa) * kTwoOverPi[first + i];
    word[i] = static_cast<unsigned>(carry);
    carry >>= 32;
  }
  // 2 / pi * x modulo 4, as 2 bits of quadrant and 62 bits of fraction
  uint64_t turns = static_cast<uint64_t>(word[3]) << 32 | word[2];
  if (shift > 0) turns = turns << shift | word[1] >> (32 - shift);
  quadrant = static_cast<int>(turns >> 62);
  int64_t fraction = static_cast<int64_t>(turns << 2);  // as a signed number it is already the nearest multiple's rest
  if (fraction < 0) ++quadrant;
  fraction >>= 1;  // so that its float never rounds up to 2^63
  const float high = static_cast<float>(fraction), low = static_cast<float>(fraction - static_cast<int64_t>(high));
  constexpr float kUnit = 1.f / 9223372036854775808.f;
  const float r =
      fmaf(high, 1.57079637e+00f * kUnit, fmaf(high, -4.37113883e-08f * kUnit, low * 1.57079637e+00f * kUnit));
  if (bits >> 31) {
    quadrant = -quadrant;
    return -r;
  }
  return r;
}

__device__ __forceinline__ void sincos_without_stack(float x, float& s, float& c) {
  int quadrant;
  const float r = reduce_half_pi(x, quadrant), square = r * r;
  float sine = fmaf(square, -1.95152959e-4f, 8.33216087e-3f);
  sine = fmaf(fmaf(sine, square, -1.66666546e-1f), square * r, r);
  float cosine = fmaf(square, 2.44331571e-5f, -1.38873162e-3f);
  cosine = fmaf(fmaf(fmaf(cosine, square, 4.16666457e-2f), square, -0.5f), square, 1.f);
  s = quadrant & 1 ? cosine : sine;
  c = quadrant & 1 ? sine : cosine;
  if (quadrant & 2) s = -s;
  if ((quadrant + 1) & 2) c = -c;
}

}  // namespace irf::cuda
