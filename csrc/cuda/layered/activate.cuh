// What follows the product of a forward walk: bias and the next stage's activation, with as many derivatives as wanted.
// An epilogue of layered/product.cuh and of layered/rows.cuh.
#pragma once

#include "cuda/device/operand.cuh"
#include "cuda/layered/product.cuh"
#include "cuda/layered/stage_rows.h"

namespace irf::cuda {

template <class T>
struct Activate {
  static constexpr int kUnroll = 1;  // the code of every activation, once

  const T* bias;  // [channels] or null
  int channels, pitch;
  Activation activation;
  const T* beta;
  StageRows<T*> rows;
  Precision precision;  // of h
  Parameters<T> parameters;  // the slope is filled in by begin()

  __device__ void begin() { parameters.slope = slope_of(beta); }

  template <int LANES>
  __device__ __forceinline__ void apply(const RowPlace& place, int column, bool inside, Vector<T> a) {
    if (!inside) return;
    if (bias) {
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i)
        if (column + i < channels) a[i] += __ldg(bias + column + i);
    }
    const int64_t at = place.row * pitch + column;
    if (rows.a) store16(rows.a + at, a);
    if (!rows.h && !rows.d) return;
    Vector<T> h, d;
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      const Jet<T> value = jet(activation, a[i], parameters_of(activation, parameters, column + i, channels));
      const bool real = column + i < channels;  // phi(0) need not be 0, pads are
      h[i] = real ? value.h : T(0);
      d[i] = real ? value.d : T(0);
    }
    if (rows.h) store_operands(rows.h, at, h, precision);
    if (rows.d) store16(rows.d + at, d);
  }
};

// What makes stage i's rows: its activation, and before it the bias of the stage before.
template <class T>
Activate<T> activation_of(const Branch<T>& branch, int i, Precision precision, const StageRows<T*>& rows) {
  const Stage<T>& stage = branch.stage[i];
  return {i > 0 ? branch.stage[i - 1].bias : nullptr,
          stage.in_channels,
          channel_pad(stage.in_channels, precision),
          stage.activation,
          stage.beta,
          rows,
          precision,
          {T(1), stage.constant}};
}

}  // namespace irf::cuda
