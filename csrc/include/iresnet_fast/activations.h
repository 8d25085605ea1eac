// The activation registry: value h, first derivative d and second derivative e of every activation that has a kernel.
//
// Each formula is written once, against a `Math` policy that supplies the number type V (a SIMD vector on the CPU, a
// scalar on the GPU) and the few functions that need care: exp and expm1 of a non-positive number, log1p on [0, 1],
// sincos, the tail of the normal distribution, select. Every formula below only ever exponentiates a non-positive
// number, so nothing overflows. Torch-free; host and device. The Python registry is iresnet_fast/activations.py; the
// order here is its kernel_id.
#pragma once

#include "iresnet_fast/macros.h"

// X(name, Struct): the ids are the positions in this list.
#define IRF_FOR_EACH_ACTIVATION(X) \
  X(identity, Identity)            \
  X(relu, Relu)                    \
  X(elu, Elu)                      \
  X(softplus, Softplus)            \
  X(tanh, Tanh)                    \
  X(sin, Sin)                      \
  X(lipswish, LipSwish)            \
  X(leaky_relu, LeakyRelu)         \
  X(scaled_sin, ScaledSin)         \
  X(half_abs, HalfAbs)             \
  X(selu, Selu)                    \
  X(sigmoid, Sigmoid)              \
  X(gelu, Gelu)                    \
  X(swish, Swish)                  \
  X(celu, Celu)                    \
  X(hardtanh, Hardtanh)            \
  X(leaky_lswish, LeakyLSwish)

namespace irf {

enum class Activation : int {
#define IRF_ID(name, Struct) k##Struct,
  IRF_FOR_EACH_ACTIVATION(IRF_ID)
#undef IRF_ID
      kCount
};

// What an activation gives at one point: h = phi(a), d = phi'(a), e = phi''(a).
template <class V>
struct Jet {
  V h, d, e;
};

// What an activation depends on besides its argument. One that needs neither ignores both.
template <class V>
struct Parameters {
  V slope;     // softplus of the learnable beta
  V constant;  // fixed when the branch is built
};

// Derivatives of h and of d with respect to the activation's learnable slope.
template <class V>
struct SlopeGradient {
  V h, d;
};

// Whether phi'' vanishes everywhere.
static constexpr bool piecewise_linear(Activation activation) {
  return activation == Activation::kIdentity || activation == Activation::kRelu ||
         activation == Activation::kLeakyRelu || activation == Activation::kHalfAbs ||
         activation == Activation::kHardtanh;
}

// Whether the slope of the activation is learnt, through its beta.
static constexpr bool learns_slope(Activation activation) {
  return activation == Activation::kLipSwish || activation == Activation::kLeakyLSwish;
}

// kHasSlope: whether beta is learnt. kByChannel: whether the constant is that of a channel, `constant_of`.
struct PlainActivation {
  static constexpr bool kHasSlope = false, kByChannel = false;
};

struct Identity : PlainActivation {
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V>) {
    return {a, M::constant(1), M::constant(0)};
  }
};

struct Relu : PlainActivation {
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V>) {
    const V zero = M::constant(0);
    // `a <= 0` (not `a > 0`) keeps a NaN a NaN.
    return {M::select(a <= zero, zero, a), M::select(a > zero, M::constant(1), zero), zero};
  }
};

struct Elu : PlainActivation {
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V>) {
    const V zero = M::constant(0), one = M::constant(1);
    const V grown = M::expm1_nonpositive(M::select(a > zero, zero, a));
    return {M::select(a > zero, a, grown), grown + one, M::select(a < zero, grown + one, zero)};
  }
};

// scale (a above zero, alpha (e^a - 1) below it), with the constants of self-normalizing networks (arXiv 1706.02515).
struct Selu : PlainActivation {
  static constexpr double kScale = 1.0507009873554804934, kLeftScale = 1.7580993408473768599;  // scale alpha

  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V>) {
    const V zero = M::constant(0), scale = M::constant(kScale), left = M::constant(kLeftScale);
    const V grown = left * M::expm1_nonpositive(M::select(a > zero, zero, a));
    return {M::select(a > zero, scale * a, grown), M::select(a > zero, scale, grown + left),
            M::select(a >= zero, zero, grown + left)};
  }
};

// a above zero, c (e^(a/c) - 1) below it; the constant is c > 0.
struct Celu : PlainActivation {
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V> p) {
    const V zero = M::constant(0), one = M::constant(1);
    const V grown = M::expm1_nonpositive(M::select(a > zero, zero, a) / p.constant), d = grown + one;
    return {M::select(a > zero, a, p.constant * grown), d, M::select(a >= zero, zero, d / p.constant)};
  }
};

struct Hardtanh : PlainActivation {
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V>) {
    const V zero = M::constant(0), one = M::constant(1);
    return {M::select(a > one, one, M::select(a < -one, -one, a)),
            M::select(M::select(a > zero, a, -a) >= one, zero, one), zero};
  }
};

// exp(-|a|) and what the logistic function needs of it.
template <class M, class V = typename M::V>
IRF_HOST_DEVICE static IRF_ALWAYS_INLINE void logistic(V a, V& exp_minus, V& sigma, V& sigma_prime) {
  const V zero = M::constant(0), one = M::constant(1);
  exp_minus = M::exp_nonpositive(M::select(a > zero, -a, a));
  const V p = one / (one + exp_minus);
  sigma = M::select(a > zero, p, exp_minus * p);
  sigma_prime = exp_minus * p * p;
}

struct Softplus : PlainActivation {
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V>) {
    V exp_minus, sigma, sigma_prime;
    logistic<M>(a, exp_minus, sigma, sigma_prime);
    const V zero = M::constant(0);
    return {M::select(a <= zero, zero, a) + M::log1p_unit(exp_minus), sigma, sigma_prime};
  }
};

struct Sigmoid : PlainActivation {
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V>) {
    V exp_minus, sigma, sigma_prime;
    logistic<M>(a, exp_minus, sigma, sigma_prime);
    return {sigma, sigma_prime, sigma_prime * (M::constant(1) - M::constant(2) * sigma)};
  }
};

// a P(a), P the distribution function of a normal number.
struct Gelu : PlainActivation {
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V>) {
    const V zero = M::constant(0), one = M::constant(1), two = M::constant(2);
    const V magnitude = M::select(a > zero, a, -a);
    V gaussian;
    const V tail = M::normal_tail(magnitude, gaussian);
    const V p = M::select(a > zero, one - tail, tail);
    const V density = gaussian * M::constant(0.39894228040143267794);  // 1 / sqrt(2 pi)
    // Far out a may be infinite, or its square, which times zero is no number.
    const auto flat = gaussian == zero;
    const V moved = M::select(flat, zero, a * density);
    return {M::select(p == zero, zero, a * p), p + moved, M::select(flat, zero, two * density - a * moved)};
  }
};

struct Tanh : PlainActivation {
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V>) {
    const V zero = M::constant(0), two = M::constant(2);
    const V u = M::expm1_nonpositive(-two * M::select(a > zero, a, -a));  // e^{-2|a|} - 1
    const V t = u / (u + two);
    const V h = M::select(a > zero, -t, t);
    const V d = M::constant(1) - h * h;
    return {h, d, -two * h * d};
  }
};

struct Sin : PlainActivation {
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V>) {
    V s, c;
    M::sincos(a, s, c);
    return {s, c, -s};
  }
};

// The constant is the slope below zero.
struct LeakyRelu : PlainActivation {
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V> p) {
    const V zero = M::constant(0);
    return {M::select(a <= zero, p.constant * a, a), M::select(a > zero, M::constant(1), p.constant), zero};
  }
};

// |a| in the first half of the channels, a in the others: MaxMin, once the channels of a pair are replaced by their
// difference and their sum (iresnet_fast/_lowering.py).
struct HalfAbs : LeakyRelu {
  static constexpr bool kByChannel = true;
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE int constant_of(int channel, int channels) {
    return channel < channels / 2 ? -1 : 1;
  }
};

// sin(w a) / w, the constant is w.
struct ScaledSin : PlainActivation {
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V> p) {
    V s, c;
    M::sincos(p.constant * a, s, c);
    return {s / p.constant, c, -p.constant * s};
  }
};

// a * sigmoid(slope * a) / 1.1, slope = softplus(beta) (Residual Flows, arXiv 1906.02735, section 3.4).
struct LipSwish {
  static constexpr bool kHasSlope = true, kByChannel = false;

  // slope * a, but no further out than where the logistic function is 0 or 1 in any precision: never infinite, so that
  // it may be multiplied by a zero.
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE V scaled(V a, V slope) {
    const V z = slope * a, most = M::constant(1024);
    return M::select(z > most, most, M::select(z < -most, -most, z));
  }

  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V> p) {
    V exp_minus, sigma, sigma1;
    const V zero = M::constant(0), one = M::constant(1), two = M::constant(2), scale = M::constant(1 / 1.1);
    const V slope = p.slope, z = scaled<M>(a, slope);
    logistic<M>(z, exp_minus, sigma, sigma1);
    const V sigma2 = sigma1 * (one - two * sigma);
    return {M::select(sigma == zero, zero, a * sigma * scale),  // also for -infinity
            (sigma + z * sigma1) * scale, slope * (two * sigma1 + z * sigma2) * scale};
  }

  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE SlopeGradient<V> slope_gradient(V a, Parameters<V> p) {
    V exp_minus, sigma, sigma1;
    const V zero = M::constant(0), one = M::constant(1), two = M::constant(2), scale = M::constant(1 / 1.1);
    const V z = scaled<M>(a, p.slope);
    logistic<M>(z, exp_minus, sigma, sigma1);
    const V sigma2 = sigma1 * (one - two * sigma);
    const auto flat = sigma1 == zero;  // as far out as a * a may be infinite
    return {M::select(flat, zero, a * (a * sigma1) * scale),
            M::select(flat, zero, a * (two * sigma1 + z * sigma2) * scale)};
  }
};

// LipSwish of slope 1.
struct Swish : PlainActivation {
  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V>) {
    return LipSwish::jet<M>(a, {M::constant(1), M::constant(0)});
  }
};

// c a + (1 - c) LipSwish(a), the constant is c (i-DenseNet, arXiv 2102.02694).
struct LeakyLSwish {
  static constexpr bool kHasSlope = true, kByChannel = false;

  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE Jet<V> jet(V a, Parameters<V> p) {
    const V rest = M::constant(1) - p.constant;
    const Jet<V> swish = LipSwish::jet<M>(a, p);
    return {p.constant * a + rest * swish.h, p.constant + rest * swish.d, rest * swish.e};
  }

  template <class M, class V = typename M::V>
  IRF_HOST_DEVICE static IRF_ALWAYS_INLINE SlopeGradient<V> slope_gradient(V a, Parameters<V> p) {
    const V rest = M::constant(1) - p.constant;
    const SlopeGradient<V> swish = LipSwish::slope_gradient<M>(a, p);
    return {rest * swish.h, rest * swish.d};
  }
};

// Of an activation that learns its slope.
template <class M, class V = typename M::V>
IRF_HOST_DEVICE static IRF_ALWAYS_INLINE SlopeGradient<V> slope_gradient(Activation activation, V a, Parameters<V> p) {
  return activation == Activation::kLeakyLSwish ? LeakyLSwish::slope_gradient<M>(a, p)
                                                : LipSwish::slope_gradient<M>(a, p);
}

}  // namespace irf
