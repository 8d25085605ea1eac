// Determinants and inverses of small matrices, one matrix per lane, in double precision: what is added to a determinant
// or lost in an inverse is then the rounding of the matrix itself.
#pragma once

#include "cpu/simd.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Vectors over matrices: lane l belongs to matrix l.
using Lanes = Vector<double>;
constexpr int kMatrices = kLanes<double>;

template <class T>
struct LanesOf {
  typedef T type __attribute__((vector_size(kMatrices * sizeof(T))));
  typedef T unaligned __attribute__((vector_size(kMatrices * sizeof(T)), aligned(sizeof(T)), may_alias));
};

template <class T>
IRF_ALWAYS_INLINE Lanes widen(const T* p) {
  return __builtin_convertvector(*reinterpret_cast<const typename LanesOf<T>::unaligned*>(p), Lanes);
}

template <class T>
IRF_ALWAYS_INLINE void narrow(Lanes v, T* p) {
  *reinterpret_cast<typename LanesOf<T>::unaligned*>(p) = __builtin_convertvector(v, typename LanesOf<T>::type);
}

IRF_ALWAYS_INLINE Lanes magnitude(Lanes v) { return v < Lanes{} ? -v : v; }

// The row, from k on, with the entry of column k that is largest; a NaN is never larger.
inline void find_pivots(const double* matrix, int size, int k, int64_t (&pivot)[kMatrices]) {
  typedef int64_t Rows __attribute__((vector_size(kVectorBytes)));
  Lanes most = magnitude(load(matrix + (int64_t(k) * size + k) * kMatrices));
  Rows row = Rows{} + k;
  for (int i = k + 1; i < size; ++i) {
    const Lanes entry = magnitude(load(matrix + (int64_t(i) * size + k) * kMatrices));
    row = entry > most ? Rows{} + i : row;
    most = entry > most ? entry : most;
  }
  std::memcpy(pivot, &row, sizeof row);
}

// Exchanges two rows (step 1, from the first entry of each) or columns (step size) of matrix l.
inline void exchange(double* matrix, int64_t first, int64_t second, int64_t step, int count, int l) {
  for (int i = 0; i < count; ++i) {
    double& a = matrix[(first + i * step) * kMatrices + l];
    double& b = matrix[(second + i * step) * kMatrices + l];
    const double other = a;
    a = b;
    b = other;
  }
}

// matrix [size * size][kMatrices] -> log|det| [kMatrices] by elimination with partial pivoting. `invert`: the matrix
// becomes its inverse (Gauss and Jordan, in place); else it is spoilt. A singular matrix has the logarithm -infinity
// and an inverse that is not finite. order [size][kMatrices] is scratch.
inline void eliminate(double* matrix, int size, bool invert, int64_t (*order)[kMatrices], double* log_abs_det) {
  double sum[kMatrices] = {};
  for (int k = 0; k < size; ++k) {
    find_pivots(matrix, size, k, order[k]);
    const int from = invert ? 0 : k;
    for (int l = 0; l < kMatrices; ++l)
      if (order[k][l] != k) exchange(matrix, int64_t(k) * size + from, order[k][l] * size + from, 1, size - from, l);
    double* row = matrix + int64_t(k) * size * kMatrices;
    const Lanes pivot = load(row + k * kMatrices);
    for (int l = 0; l < kMatrices; ++l) sum[l] += __builtin_log(__builtin_fabs(pivot[l]));
    for (int i = invert ? 0 : k + 1; i < size; ++i) {
      if (i == k) continue;
      double* other = matrix + int64_t(i) * size * kMatrices;
      // Below a pivot of zero all is zero, and stays.
      const Lanes below = load(other + k * kMatrices);
      const Lanes factor = (pivot == Lanes{}) & (below == Lanes{}) ? Lanes{} : below / pivot;
      if (invert) store(other + k * kMatrices, Lanes{});
      for (int c = invert ? 0 : k + 1; c < size; ++c) {
        if (c == k) continue;
        store(other + c * kMatrices, load(other + c * kMatrices) - factor * load(row + c * kMatrices));
      }
      if (invert) store(other + k * kMatrices, -factor);
    }
    if (!invert) continue;
    for (int c = 0; c < size; ++c)
      store(row + c * kMatrices, (c == k ? Lanes{} + 1.0 : load(row + c * kMatrices)) / pivot);
  }
  // The inverse of the matrix with its rows exchanged has its columns exchanged.
  for (int k = size - 1; invert && k >= 0; --k)
    for (int l = 0; l < kMatrices; ++l)
      if (order[k][l] != k) exchange(matrix, k, order[k][l], size, size, l);
  std::memcpy(log_abs_det, sum, sizeof sum);
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
