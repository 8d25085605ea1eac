// What follows a product of the backward pass: multiplication by the derivatives at a_i, which are computed again from
// a_i itself (one buffer to read instead of three). An epilogue of stage_product.cuh and of rows.cuh; with v the
// product,
//   value  <- v                                tangents t_i
//   scaled <- D_i v (+ scaled)                 D_i t_i, cotangents r_i, the ordinary backward s_i
//   second <- E_i t v (+ second)               what the cotangents of a pair add to s_i
//   terms  <- sum over a row of v d h / d slope, or of v t d D / d slope
#pragma once

#include "cuda/stage_product.cuh"

namespace irf::cuda {

template <class T>
struct Linearized {
  static constexpr int kUnroll = 1;  // the code of every activation, once

  const T* a;  // [samples * pixels][pitch]
  Activation activation;
  const T* beta;
  int pitch;
  // Each may be null; all are [rows][pitch] but `terms`, which is [column tiles][rows].
  T *value, *scaled, *second, *terms;
  const T* t;
  bool add_scaled, add_second;
  int64_t rows;
  T slope;

  __device__ void begin() { slope = slope_of(beta); }

  template <int LANES>
  __device__ __forceinline__ void apply(const RowPlace& place, int column, bool inside, const Vector<T>& v) {
    T term = T(0);
    if (inside) {
      const int64_t at = place.row * pitch + column;
      const Vector<T> point = load16(a + place.sample_row() * pitch + column);
      Vector<T> d, e;
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) {
        const Jet<T> phi = jet(activation, point[i], slope);
        d[i] = phi.d;
        e[i] = phi.e;
      }
      const Vector<T> tangent = t ? load16(t + at) : zero16<T>();
      if (value) store16(value + at, v);
      if (scaled) {
#pragma unroll
        for (int i = 0; i < kVector<T>; ++i) d[i] *= v[i];
        store_sum(scaled + at, add_scaled, d);
      }
      if (second) {
#pragma unroll
        for (int i = 0; i < kVector<T>; ++i) e[i] *= tangent[i] * v[i];
        store_sum(second + at, add_second, e);
      }
      if (terms) {
#pragma unroll
        for (int i = 0; i < kVector<T>; ++i) {
          const SlopeGradient<T> by_slope = LipSwish::slope_gradient<ScalarMath<T>>(point[i], slope);
          term += v[i] * (t ? tangent[i] * by_slope.d : by_slope.h);
        }
      }
    }
    if (!terms) return;
    term = sum_lanes(term, LANES);
    if (inside && static_cast<int>(threadIdx.x) % LANES == 0)
      terms[column / (LANES * kVector<T>)*rows + place.row] = term;
  }

 private:
  static __device__ __forceinline__ void store_sum(T* to, bool add, Vector<T> x) {
    if (add) {
      const Vector<T> before = load16(to);
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) x[i] += before[i];
    }
    store16(to, x);
  }
};

}  // namespace irf::cuda
