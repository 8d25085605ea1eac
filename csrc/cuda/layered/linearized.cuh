// What follows a product of the backward pass: multiplication by the derivatives at a_i, which are computed again from
// a_i itself (one buffer to read instead of three). An epilogue of layered/product.cuh and of layered/rows.cuh; with v
// the product,
//   value   <- v                       tangents t_i
//   scaled  <- D_i v + sum of added    D_i t_i, cotangents r_i, the ordinary backward s_i: operands
//   curved  <- E_i t v                 what the cotangents of a pair add to s_i; may lie in the place of its tangent t
//   factors <- phi_i v + sum of added  the gradient of the factor, or what a pair adds to it, phi_i' t v, where t is
//   given terms   <- sum over a row of v d h / d slope, or of v t d D / d slope where t is given
// A v that is a gradient by D_i itself is treated as that of a pair whose t is one.
#pragma once

#include "cuda/device/operand.cuh"
#include "cuda/device/stage_operand.cuh"
#include "cuda/layered/rows.cuh"

namespace irf::cuda {

template <class T>
struct Linearized {
  static constexpr int kUnroll = 1;  // the code of every activation, once

  const T* a;  // [samples * pixels][pitch]; null for an identity without a factor, which is as steep everywhere
  Activation activation;
  const T* beta;
  int pitch;
  int64_t rows;
  // Each may be null.
  T *value, *scaled, *curved, *factors;  // [rows][pitch]
  Precision precision;                   // of `scaled`
  const T* t;                            // [rows][pitch]; given with `curved`
  bool by_derivative;                    // t is one everywhere
  T* terms;                              // [column tiles][rows]
  const T *added, *added_factors;        // [addends][rows][pitch], to `scaled` and `factors`
  int addends;
  Parameters<T> parameters;  // the slope is filled in by begin()
  int channels;
  StageOperand<T> factor;

  __device__ void begin() { parameters.slope = slope_of(beta); }

  template <int LANES>
  __device__ __forceinline__ void apply(const RowPlace& place, int column, bool inside, const Vector<T>& v) {
    T term = T(0);
    const bool paired = t || by_derivative;
    if (inside) {
      const int64_t at = place.row * pitch + column;
      const Vector<T> point = a ? load16(a + place.sample_row() * pitch + column) : zero16<T>();
      const Vector<T> f = factor.load(place.sample, place.pixel, column, T(1));
      Vector<T> tangent, h, d, e;
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) tangent[i] = T(1);
      if (t) tangent = load16(t + at);
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) {
        const Jet<T> phi = jet(activation, point[i], parameters_of(activation, parameters, column + i, channels));
        h[i] = (paired ? tangent[i] * phi.d : phi.h) * v[i];
        d[i] = f[i] * phi.d;
        e[i] = f[i] * phi.e;
      }
      if (value) store16(value + at, v);
      if (factors) {
        add_rows(h, added_factors, at);
        store16(factors + at, h);
      }
      if (scaled) {
#pragma unroll
        for (int i = 0; i < kVector<T>; ++i) d[i] *= v[i];
        add_rows(d, added, at);
        store_operands(scaled, at, d, precision);
      }
      if (paired || terms) {
        if (terms) {
#pragma unroll
          for (int i = 0; i < kVector<T>; ++i) {
            const SlopeGradient<T> by_slope = slope_gradient<ScalarMath<T>>(activation, point[i], parameters);
            term += f[i] * v[i] * (paired ? tangent[i] * by_slope.d : by_slope.h);
          }
        }
#pragma unroll
        for (int i = 0; i < kVector<T>; ++i) e[i] *= tangent[i] * v[i];
        if (curved) store16(curved + at, e);
      }
    }
    if (!terms) return;
    term = sum_lanes(term, LANES);
    if (inside && static_cast<int>(threadIdx.x) % LANES == 0)
      terms[column / (LANES * kVector<T>)*rows + place.row] = term;
  }

 private:
  __device__ __forceinline__ void add_rows(Vector<T>& sum, const T* more, int64_t at) const {
    if (!more) return;
#pragma unroll 1
    for (int j = 0; j < addends; ++j) {
      const Vector<T> addend = load16(more + j * rows * pitch + at);
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) sum[i] += addend[i];
    }
  }
};

// At a_i of a branch, whose rows are `a`, on `repeat` items of every sample; what is wanted of it is left to the
// caller.
template <class T>
Linearized<T> linearized_at(const Branch<T>& branch, int i, const T* a, Precision precision, int repeat = 1) {
  const RowsLayout rows = layout_of(branch, i, precision, repeat);
  Linearized<T> epilogue{};
  epilogue.a = a;
  epilogue.activation = branch.stage[i].activation;
  epilogue.beta = branch.stage[i].beta;
  epilogue.parameters.constant = branch.stage[i].constant;
  epilogue.channels = branch.stage[i].in_channels;
  epilogue.factor = factor_of(branch, i);
  epilogue.pitch = rows.pitch;
  epilogue.rows = rows.items * rows.pixels;
  epilogue.precision = precision;
  return epilogue;
}

}  // namespace irf::cuda
