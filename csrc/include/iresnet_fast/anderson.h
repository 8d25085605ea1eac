// Anderson acceleration of x <- x + r(x), one sample: which iterates count, which steps are tried, which are undone,
// and the small least-squares problem of a step (docs/mathematics.md, 5; the twin is reference/anderson.py).
// Torch-free; host and device.
//
// The history holds the last kHistory accepted iterates and their residuals, the newest first. Where a step is undone,
// the iterate before it is the newest again, and all older ones count no more.
#pragma once

#include "iresnet_fast/macros.h"

namespace irf {

// After how many evaluations in a row without a better residual a sample will not converge: it has reached the floor of
// rounding, or the branch is no contraction. A contraction's residual shrinks at every update but one that is undone,
// which the next one follows, so accelerated there are never two in a row but for rounding. Also in
// reference/fixed_point.py.
template <class T>
IRF_HOST_DEVICE constexpr IRF_ALWAYS_INLINE int patience(T lipschitz) {
  return lipschitz > T(0) ? 3 : 10;
}

constexpr int kWindow = 5;  // differences of iterates that a step combines
constexpr int kHistory = kWindow + 1;
constexpr int kGram = kWindow * (kWindow + 1) / 2;
// What a step needs of an event, d_i = r_i - r_{i+1}: <d_i, d_j> for j <= i at kGram places, then <d_i, r_0>.
constexpr int kStepSums = kGram + kWindow;

IRF_HOST_DEVICE constexpr IRF_ALWAYS_INLINE int gram_place(int i, int j) { return i * (i + 1) / 2 + j; }

IRF_HOST_DEVICE IRF_ALWAYS_INLINE float root(float x) { return __builtin_sqrtf(x); }
IRF_HOST_DEVICE IRF_ALWAYS_INLINE double root(double x) { return __builtin_sqrt(x); }

template <class T>
struct AndersonState {
  T norm;        // of the newest residual
  T guaranteed;  // what the contraction makes of the first one in as many updates, and a little for rounding
  int seen;      // iterates that count
  bool tried;    // the next residual is that of a step which may be undone

  // Takes note of a residual; is its iterate undone?
  IRF_HOST_DEVICE IRF_ALWAYS_INLINE bool accept(T residual, T lipschitz) {
    const bool undone = tried && !(residual <= lipschitz * norm);
    guaranteed = seen == 0 ? T(1.001) * residual : lipschitz * guaranteed;
    seen = undone ? 1 : seen < kHistory ? seen + 1 : kHistory;
    if (!undone) norm = residual;
    return undone;
  }

  // Whether a step is tried from the newest iterate.
  IRF_HOST_DEVICE IRF_ALWAYS_INLINE void decide(bool undone, bool may_try) {
    tried = may_try && !undone && seen > 2 && norm <= guaranteed;
  }
};

// The weights that make |r_0 - sum_j weight_j d_j| least. The d_j are scaled to length one; one of iterates that do not
// count, or of which the newer ones leave less than sqrt(eps) of its square, gets the weight zero: a Gram matrix
// squares the condition, so it has about half of the digits.
template <class T>
IRF_HOST_DEVICE IRF_ALWAYS_INLINE void least_squares(const T (&sums)[kStepSums], int seen, T (&weight)[kWindow]) {
  const T least = sizeof(T) == 4 ? T(3.4526698300124393e-4) : T(1.4901161193847656e-8);
  T scale[kWindow], factor[kGram], inverse[kWindow];  // Cholesky's factor, and the inverse of its diagonal
  IRF_UNROLL
  for (int i = 0; i < kWindow; ++i) {
    const T square = sums[gram_place(i, i)];
    scale[i] = i + 1 < seen && square > T(0) ? T(1) / root(square) : T(0);
    IRF_UNROLL
    for (int j = 0; j <= i; ++j) {
      // What does not count need not be a number.
      T sum = scale[i] > T(0) && scale[j] > T(0) ? sums[gram_place(i, j)] * scale[i] * scale[j] : T(0);
      IRF_UNROLL
      for (int k = 0; k < j; ++k) sum -= factor[gram_place(i, k)] * factor[gram_place(j, k)];
      if (i == j) inverse[i] = sum > least ? T(1) / root(sum) : T(0);
      factor[gram_place(i, j)] = sum * inverse[j];
    }
    T sum = scale[i] > T(0) ? sums[kGram + i] * scale[i] : T(0);
    IRF_UNROLL
    for (int k = 0; k < i; ++k) sum -= factor[gram_place(i, k)] * weight[k];
    weight[i] = sum * inverse[i];
  }
  IRF_UNROLL
  for (int i = kWindow - 1; i >= 0; --i) {
    IRF_UNROLL
    for (int k = i + 1; k < kWindow; ++k) weight[i] -= factor[gram_place(k, i)] * weight[k];
    weight[i] *= inverse[i];
  }
  IRF_UNROLL
  for (int i = 0; i < kWindow; ++i) weight[i] *= scale[i];
}

}  // namespace irf
