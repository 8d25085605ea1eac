// The epilogue of every product of a layered power chain.
#pragma once

#include "cuda/device/operand.cuh"
#include "cuda/layered/item_sums.cuh"

namespace irf::cuda {

// What follows every product of the chain, and takes the probe in: times D, and after the last stage of a term of the
// series the inner products and the Neumann vector.
//
// Whether an item goes on after term k is known only once the whole item is summed, when w_k is gone from the
// registers. So y is written ahead, to the other of two buffers: an item that stops after term k has its y, without
// w_k, where term k - 1 left it.
template <class T>
struct ChainStep {
  static constexpr int kUnroll = 2;

  int pitch;
  const T* d;           // or null: times 1
  T* product;           // the product before d, or null
  T* result;            // and after it, or null
  T* out;               // the same as operands, or null
  Precision precision;  // of these
  const T* v;           // or null: no sums
  ItemSums<T, 2> sums;
  T* y;               // or null
  const T* y_before;  // or null: 0
  const T* q;         // q_{k + 1} of sample 0, the others' q_stride apart; or null: 0
  int64_t q_stride;
  T sign;
  const int* active;  // or null: all
  int term;           // items whose active number is below this keep their y

  __device__ void begin() {}

  struct Ahead {
    Vector<T> d, v, y;
  };
  __device__ __forceinline__ Ahead load(const RowPlace& place, int column, bool inside) const {
    Ahead ahead{};
    if (!inside) return ahead;
    const int64_t at = place.row * pitch + column;
    if (d) ahead.d = load16_readonly(d + place.sample_row() * pitch + column);
    if (v) ahead.v = load16_readonly(v + at);
    if (y_before) ahead.y = load16_readonly(y_before + at);
    return ahead;
  }

  template <int LANES>
  __device__ __forceinline__ void apply(const RowPlace& place, int column, bool inside, Vector<T> w,
                                        const Ahead& ahead) {
    const int64_t at = place.row * pitch + column;
    T values[2] = {T(0), T(0)};
    if (inside) {
      if (product) store16(product + at, w);
      if (d) {
#pragma unroll
        for (int e = 0; e < kVector<T>; ++e) w[e] *= ahead.d[e];
      }
      if (result) store16(result + at, w);
      if (out) store_operands(out, at, w, precision);
      if (v) {
#pragma unroll
        for (int e = 0; e < kVector<T>; ++e) {
          values[0] += w[e] * ahead.v[e];
          values[1] += w[e] * w[e];
        }
      }
      if (y && (!active || active[place.item] >= term)) {
        const T c = q ? sign * q[place.sample * q_stride] : T(0);
        Vector<T> sum;
#pragma unroll
        for (int e = 0; e < kVector<T>; ++e) sum[e] = (y_before ? ahead.y[e] : T(0)) + c * w[e];
        store16(y + at, sum);
      }
    }
    if (v) sums.template add<LANES>(place, column, inside, values);
  }
};

}  // namespace irf::cuda
