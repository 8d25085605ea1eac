// What follows the product of a forward walk: bias and the next stage's activation, times its factor, with as many
// derivatives as wanted.
// An epilogue of layered/product.cuh and of layered/rows.cuh.
#pragma once

#include "cuda/device/operand.cuh"
#include "cuda/device/stage_operand.cuh"
#include "cuda/layered/product.cuh"
#include "cuda/layered/stage_rows.h"

namespace irf::cuda {

template <class T>
struct Activate {
  static constexpr int kUnroll = 1;  // the code of every activation, once

  StageOperand<T> bias;  // of the stage before
  StageOperand<T> factor;
  int channels, pitch;
  Activation activation;
  const T* beta;
  StageRows<T*> rows;
  Precision precision;       // of h
  Parameters<T> parameters;  // the slope is filled in by begin()

  __device__ void begin() { parameters.slope = slope_of(beta); }

  template <int LANES>
  __device__ __forceinline__ void apply(const RowPlace& place, int column, bool inside, Vector<T> a) {
    if (!inside) return;
    const Vector<T> b = bias.load(place.sample, place.pixel, column, T(0));
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) a[i] += b[i];
    const int64_t at = place.row * pitch + column;
    if (rows.a) store16(rows.a + at, a);
    if (!rows.h && !rows.d) return;
    const Vector<T> f = factor.load(place.sample, place.pixel, column, T(1));
    Vector<T> h, d;
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      const Jet<T> value = jet(activation, a[i], parameters_of(activation, parameters, column + i, channels));
      const bool real = column + i < channels;  // phi(0) need not be 0, pads are
      h[i] = real ? f[i] * value.h : T(0);
      d[i] = real ? f[i] * value.d : T(0);
    }
    if (rows.h) store_operands(rows.h, at, h, precision);
    if (rows.d) store16(rows.d + at, d);
  }
};

// What makes stage i's rows: its activation, and before it the bias of the stage before.
template <class T>
Activate<T> activation_of(const Branch<T>& branch, int i, Precision precision, const StageRows<T*>& rows) {
  const Stage<T>& stage = branch.stage[i];
  return {i > 0 ? bias_of(branch, i - 1) : StageOperand<T>{},
          factor_of(branch, i),
          stage.in_channels,
          channel_pad(stage.in_channels, precision),
          stage.activation,
          stage.beta,
          rows,
          precision,
          {T(1), stage.constant}};
}

}  // namespace irf::cuda
