// What the kernels of the Lanczos iteration share on host and device: its constants, its random vector, and the leading
// eigenvector of the small tridiagonal matrix T of a run. Torch-free; the oracle of all of it is
// iresnet_fast/reference/lanczos_norm.py, which says where the constants come from.
#pragma once

#include <cstdint>
#include <limits>

#include "iresnet_fast/macros.h"

namespace irf {

constexpr int kLargestBasis = 40;

// Whether convergence is judged when the basis has k vectors; never with a tolerance of 0, which takes all steps.
template <class T>
IRF_HOST_DEVICE IRF_ALWAYS_INLINE bool look_after(int k, T tolerance) {
  return k >= 12 && k % 2 == 0 && tolerance > T(0);
}

template <class T>
struct Lanczos {
  static constexpr T kLeastShare = T(0.05), kMostShare = T(0.5), kSharePerResidual = T(10);
  static constexpr T kCompanionShift = T(1.05);
  static constexpr T kCancelled = T(0.01);  // a start this short is taken from the random vector alone
  static constexpr T kEps = std::numeric_limits<T>::epsilon(), kLargest = std::numeric_limits<T>::max();
};

// The share of companion and random vector in a start, beside 1 of the old vector: by how far the weight has moved,
// which the relative residual of the old vector tells. square: |A h|^2; rest: |A^T A h - square h|, h the old vector.
template <class T>
IRF_HOST_DEVICE IRF_ALWAYS_INLINE T start_share(T square, T rest) {
  const T share = Lanczos<T>::kSharePerResidual * (rest / square);
  if (!(share < Lanczos<T>::kMostShare)) return Lanczos<T>::kMostShare;  // also where A h = 0
  return share > Lanczos<T>::kLeastShare ? share : Lanczos<T>::kLeastShare;
}

// A bijective hash of 32 bits: lowbias32 of the project hash-prospector.
IRF_HOST_DEVICE IRF_ALWAYS_INLINE uint32_t mix_bits(uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}
IRF_HOST_DEVICE IRF_ALWAYS_INLINE uint32_t random_key(int64_t seed) {
  const uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
  return mix_bits(mix_bits(low) ^ high);
}
// A uniform number in (-1, 1), never 0 and exact in float32, by the position in a vector.
template <class T>
IRF_HOST_DEVICE IRF_ALWAYS_INLINE T random_number(uint32_t key, uint32_t position) {
  constexpr T kSpacing = T(1) / T(1 << 23), kMiddle = T(1) - kSpacing / T(2);
  return static_cast<T>(static_cast<int32_t>(mix_bits(position ^ key) >> 8)) * kSpacing - kMiddle;
}

// A power of two by which a weight is multiplied, so that squares of products neither overflow nor underflow: 1 for a
// weight of ordinary size. `largest`: of its entries, positive and finite.
template <class T>
IRF_HOST_DEVICE IRF_ALWAYS_INLINE T weight_factor(T largest) {
  constexpr T kStep = T(65536), kMost = Lanczos<T>::kLargest / (kStep * kStep);
  T factor = T(1);
  while (largest * factor >= kStep) factor /= kStep;
  while (largest * factor * kStep < T(1) && factor < kMost) factor *= kStep;
  return factor;
}

// Whether all digits of the square of a vector's length are right: it is finite, and so large that no entry vanishes
// when it is squared but those that make no difference.
template <class T>
IRF_HOST_DEVICE IRF_ALWAYS_INLINE bool exact_square(T square) {
  constexpr T kLeast = std::numeric_limits<T>::min() / (Lanczos<T>::kEps * Lanczos<T>::kEps);
  return square >= kLeast && square <= Lanczos<T>::kLargest;
}

// T of k steps: `alpha` [k] on its diagonal, `beta` [k - 1] beside it; all are at least 0, so the entries of the
// leading eigenvector are, and nothing below cancels. Math::sqrt is that of the device. All arrays have kLargestBasis
// elements.
template <class T, class Math>
struct Tridiagonal {
  int size;
  const T *alpha, *beta;
  T* inverse;  // scratch: of the pivots

  // Puts the leading eigenvector, of length 1, into `leading` and returns the eigenvalue, 0 if T is zero.
  IRF_HOST_DEVICE T lead(T* leading) const {
    T bound = T(0);  // by Gershgorin's circles
    for (int i = 0; i < size; ++i) {
      const T row = alpha[i] + (i > 0 ? beta[i - 1] : T(0)) + (i < size - 1 ? beta[i] : T(0));
      bound = row > bound ? row : bound;
    }
    if (!(bound > T(0))) return T(0);
    const T unit = T(1) / bound, x = largest_root(unit);
    factorize(x, unit);
    for (int i = 0; i < size; ++i) leading[i] = T(1);
    for (int round = 0; round < 3; ++round) {  // x is off by some eps, so each divides the rest by gap / eps
      solve(unit, leading);
      normalize(leading);
    }
    return x * bound;
  }

  // Puts (mu - T)^{-1} e_1 without its part along `leading`, of length 1 or zero, into `companion`.
  IRF_HOST_DEVICE void accompany(T value, const T* leading, T* companion) const {
    const T unit = T(1) / value;
    factorize(Lanczos<T>::kCompanionShift, unit);
    for (int i = 0; i < size; ++i) companion[i] = i == 0 ? T(1) : T(0);
    solve(unit, companion);
    const T before = normalize(companion);
    T left = before;
    for (int round = 0; round < 2; ++round) {  // once more, since little may be left
      T along = T(0);
      for (int i = 0; i < size; ++i) along += leading[i] * companion[i];
      for (int i = 0; i < size; ++i) companion[i] -= along * leading[i];
      left = normalize(companion);
      if (round == 0 && !(left > T(4 * kLargestBasis) * Lanczos<T>::kEps)) {  // nothing but rounding
        for (int i = 0; i < size; ++i) companion[i] = T(0);
        return;
      }
    }
  }

 private:
  // Laguerre's method on det(x - unit T), from above, where it comes down monotonously. Returns a point above the
  // largest root by some eps, so that all pivots there are positive.
  IRF_HOST_DEVICE T largest_root(T unit) const {
    T x = T(1), margin = T(8) * Lanczos<T>::kEps;
    for (int round = 0; round < 40; ++round) {
      T pivot = T(1), first = T(0), second = T(0);  // with its derivatives
      T sum = T(0), squares = T(0);                 // of 1 / (x - root), and of its squares
      bool above = true;
      T coupling = T(0), slope = T(0), bend = T(0);
      for (int i = 0; i < size; ++i) {
        pivot = x - alpha[i] * unit - coupling;
        first = T(1) + coupling * slope;
        second = coupling * (bend - T(2) * slope * slope);
        above = above && pivot > T(0);
        const T reciprocal = T(1) / pivot, next = beta[i] * unit;
        slope = first * reciprocal;
        bend = second * reciprocal;
        sum += slope;
        squares += slope * slope - bend;
        coupling = i < size - 1 ? next * next * reciprocal : T(0);
      }
      if (!above) {
        x += margin;
        margin *= T(2);
        continue;
      }
      const T spread = T(size - 1) * (T(size) * squares - sum * sum);
      const T step = T(size) / (sum + Math::sqrt(spread > T(0) ? spread : T(0)));
      if (step <= T(2) * margin) break;
      x += margin - step;
    }
    return x;
  }

  // inverse = 1 / the pivots of x - unit T.
  IRF_HOST_DEVICE void factorize(T x, T unit) const {
    T coupling = T(0);
    for (int i = 0; i < size; ++i) {
      inverse[i] = T(1) / (x - alpha[i] * unit - coupling);
      if (i < size - 1) coupling = beta[i] * unit * (beta[i] * unit) * inverse[i];
    }
  }

  // y = (x - unit T)^{-1} y
  IRF_HOST_DEVICE void solve(T unit, T* y) const {
    for (int i = 1; i < size; ++i) y[i] += beta[i - 1] * unit * inverse[i - 1] * y[i - 1];
    for (int i = size - 1; i >= 0; --i) y[i] = (y[i] + (i < size - 1 ? beta[i] * unit * y[i + 1] : T(0))) * inverse[i];
  }

  IRF_HOST_DEVICE T normalize(T* y) const {
    T largest = T(0), sum = T(0);
    for (int i = 0; i < size; ++i) {
      const T entry = y[i] < T(0) ? -y[i] : y[i];
      largest = entry > largest ? entry : largest;
    }
    if (!(largest > T(0))) return T(0);
    for (int i = 0; i < size; ++i) {
      y[i] /= largest;
      sum += y[i] * y[i];
    }
    const T length = Math::sqrt(sum);
    for (int i = 0; i < size; ++i) y[i] /= length;
    return largest * length;
  }
};

}  // namespace irf
