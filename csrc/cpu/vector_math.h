// Elementary functions on SIMD vectors, the `Math` policy of iresnet_fast/activations.h. Errors are about 1 unit in the
// last place on the ranges named; tests/test_activations.py compares them with float64.
#pragma once

#include "cpu/simd.h"
#include "iresnet_fast/activations.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Int = int32_t;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer kept in the low bits
  static constexpr int kMantissa = 23;
  static constexpr float kLowest = -87.0f;
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // Cody-Waite split, k * high is exact
  static constexpr int kExpTerms = 7;    // Taylor of e^r - 1 on |r| <= ln(2) / 2: the next term is 5e-9
  static constexpr int kAtanhTerms = 8;  // 2 atanh(s) on s <= 1/3
  static constexpr int kSinTerms = 6;    // sin to r^13, cos to r^12 on |r| <= pi / 2
  static constexpr float kPi1 = 3.140625f, kPi2 = 9.67502593994140625e-4f, kPi3 = 1.509957990978376e-7f;
  static constexpr float kSinLimit = 8192.0f;  // beyond it the three-part reduction loses digits
};

template <>
struct ExpConstants<double> {
  using Int = int64_t;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kMantissa = 52;
  static constexpr double kLowest = -708.0;
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr int kExpTerms = 13;
  static constexpr int kAtanhTerms = 17;
  static constexpr int kSinTerms = 12;
  static constexpr double kPi1 = 3.14159265160560607910, kPi2 = 1.98418714791870343106e-9,
                          kPi3 = 1.14423774522196636802e-17;
  static constexpr double kSinLimit = 1.0e7;
};

// 1 / n!, the coefficients of every series below.
struct ReciprocalFactorials {
  double value[26];
  constexpr ReciprocalFactorials() : value{1} {
    for (int n = 1; n < 26; ++n) value[n] = value[n - 1] / n;
  }
  constexpr double operator()(int n) const { return value[n]; }
};
constexpr ReciprocalFactorials reciprocal_factorial;

template <class T>
struct VectorMath {
  using V = Vector<T>;
  using C = ExpConstants<T>;
  typedef typename C::Int IntVector __attribute__((vector_size(kVectorBytes)));

  static IRF_ALWAYS_INLINE V constant(double x) { return broadcast(static_cast<T>(x)); }

  template <class Mask>
  static IRF_ALWAYS_INLINE V select(Mask mask, V yes, V no) {
    return mask ? yes : no;
  }

  // e^x = scale (1 + q) for x <= 0, scale a power of two. NaN stays NaN.
  static IRF_ALWAYS_INLINE void split_exp(V x, V& scale, V& q) {
    const V lowest = constant(C::kLowest);
    x = x < lowest ? lowest : x;
    const V shifted = fma(x, constant(1.4426950408889634074), constant(C::kRound));
    const V k = shifted - constant(C::kRound);
    V r = fma(k, constant(-C::kLn2High), x);
    r = fma(k, constant(-C::kLn2Low), r);
    q = constant(reciprocal_factorial(C::kExpTerms));
#pragma GCC unroll 16
    for (int i = C::kExpTerms - 1; i >= 1; --i) q = fma(q, r, constant(reciprocal_factorial(i)));
    q = q * r;  // e^r - 1
    const IntVector bits = ((IntVector)shifted << C::kMantissa) + (IntVector)constant(1.0);
    scale = (V)bits;  // 2^k
  }

  static IRF_ALWAYS_INLINE V exp_nonpositive(V x) {
    V scale, q;
    split_exp(x, scale, q);
    return x < constant(C::kLowest) ? V{} : fma(scale, q, scale);
  }

  // Right to ~1 ulp also near 0.
  static IRF_ALWAYS_INLINE V expm1_nonpositive(V x) {
    V scale, q;
    split_exp(x, scale, q);
    return fma(scale, q, scale - constant(1.0));
  }

  // log(1 + x) for 0 <= x <= 1, as 2 atanh(x / (2 + x)).
  static IRF_ALWAYS_INLINE V log1p_unit(V x) {
    const V s = x / (x + constant(2.0)), s2 = s * s;
    V sum = constant(1.0 / (2 * C::kAtanhTerms + 1));
#pragma GCC unroll 20
    for (int i = C::kAtanhTerms - 1; i >= 0; --i) sum = fma(sum, s2, constant(1.0 / (2 * i + 1)));
    return constant(2.0) * s * sum;
  }

  // Each lane by itself: what its neighbours hold changes no bit of it.
  static IRF_ALWAYS_INLINE void sincos(V x, V& sine, V& cosine) {
    const V shifted = fma(x, constant(0.31830988618379067154), constant(C::kRound));
    const V k = shifted - constant(C::kRound);
    V r = fma(k, constant(-C::kPi1), x);
    r = fma(k, constant(-C::kPi2), r);
    r = fma(k, constant(-C::kPi3), r);
    const V r2 = r * r;
    V s{}, c{};
#pragma GCC unroll 16
    for (int i = C::kSinTerms; i >= 0; --i) {
      const double sign = i % 2 ? -1.0 : 1.0;
      s = fma(s, r2, constant(sign * reciprocal_factorial(2 * i + 1)));
      c = fma(c, r2, constant(sign * reciprocal_factorial(2 * i)));
    }
    const V sign = (V)((IntVector)constant(1.0) ^ ((IntVector)shifted << (8 * sizeof(T) - 1)));  // (-1)^k
    sine = r * s * sign;
    cosine = c * sign;
    const V magnitude = x > constant(0.0) ? x : -x;
    bool huge = false;
    for (int i = 0; i < kLanes<T>; ++i) huge |= magnitude[i] > C::kSinLimit;
    if (!huge) return;
    for (int i = 0; i < kLanes<T>; ++i) {  // rare: the C library reduces large arguments exactly
      if (!(magnitude[i] > C::kSinLimit)) continue;
      sine[i] = static_cast<T>(__builtin_sin(x[i]));
      cosine[i] = static_cast<T>(__builtin_cos(x[i]));
    }
  }
};

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
