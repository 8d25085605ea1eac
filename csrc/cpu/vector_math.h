// Elementary functions on SIMD vectors, the `Math` policy of iresnet_fast/activations.h. Errors are about 1 unit in the
// last place on the ranges named; tests/test_kernel_activations.py compares what is made of them with 50 digits.
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
  static constexpr int kLowBits = 12;          // without them a square is exact
  // The polynomial of normal_tail: off by 2.1e-9 of the tail up to kTailEnd, where e^(-x^2/2) is below kLowest.
  static constexpr float kTailEnd = 13.3f;
  static constexpr float kTail[] = {4.720532066e-1f,  -9.670346842e-2f, 1.399961306e-2f, 2.860003321e-2f,
                                    -3.219745735e-2f, 1.793969358e-2f,  -5.00386219e-3f, -3.02018544e-4f,
                                    6.929687876e-4f,  -6.23059416e-5f,  -7.253610765e-5f};
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
  static constexpr int kLowBits = 27;
  static constexpr double kTailEnd = 37.7;  // off by 6.5e-18 of the tail
  static constexpr double kTail[] = {
      4.7205320650984468082e-1,  -9.6703477326525801474e-2, 1.3999634724425424242e-2,  2.8600364053550033152e-2,
      -3.2197837428086779047e-2, 1.7936097479700304238e-2,  -5.0023785910135673984e-3, -2.8562309837619482945e-4,
      6.948971040829688889e-4,   -9.4430250649609679096e-5, -8.7853179443876772237e-5, 2.1250034046151502822e-5,
      1.3626847689395660178e-5,  -3.4321548810493075142e-6, -2.6128397974233994015e-6, 4.0440736937842086917e-7,
      5.5187138465518890533e-7,  1.5392394854223882461e-9,  -1.1085296310811981016e-7, -1.9929397302439817333e-8,
      1.7548770816786068679e-8,  6.2245598370516311663e-9,  -1.5128290511269193827e-9, -7.7657109957406185172e-10};
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

  // The probability Q(x) that a normal number is above x >= 0, and e^(-x^2/2); both are 0 beyond kTailEnd.
  //
  // (1 + x) e^(x^2/2) Q(x) is nearly flat, and smooth in t = (x - 4) / (x + 4): the polynomial meets it in the zeros of
  // the Chebyshev polynomial of its number of coefficients, on t from -1 to where x is kTailEnd, with all solved for in
  // 60 digits.
  static IRF_ALWAYS_INLINE V normal_tail(V x, V& gaussian) {
    const V one = constant(1.0), end = constant(C::kTailEnd);
    const V y = x > end ? end : x;
    // The square in two parts, the first exact: a rounding of it would count 90 times in the exponential (700 times for
    // double). The second is at most 0.06, where five terms of its own exponential are enough.
    const V high = (V)((IntVector)y & (IntVector{} - (typename C::Int(1) << C::kLowBits)));
    const V u = constant(0.5) * (y - high) * (y + high);
    V low = constant(reciprocal_factorial(4));
#pragma GCC unroll 4
    for (int i = 3; i >= 0; --i) low = fma(low, -u, constant(reciprocal_factorial(i)));
    gaussian = exp_nonpositive(constant(-0.5) * high * high) * low;
    const V t = (y - constant(4.0)) / (y + constant(4.0));
    constexpr int kTerms = sizeof(C::kTail) / sizeof(T);
    V sum = broadcast(C::kTail[kTerms - 1]);
#pragma GCC unroll 24
    for (int i = kTerms - 2; i >= 0; --i) sum = fma(sum, t, broadcast(C::kTail[i]));
    return gaussian * sum / (one + y);
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
