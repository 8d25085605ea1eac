// The tangents of a resident training step, stage by stage in the state that the forward walk has left.
#pragma once

#include "cuda/device/operand.cuh"
#include "cuda/kept.h"
#include "cuda/resident/block.cuh"

namespace irf::cuda {
namespace {

// state <- D_i t_i, where the state holds t_i. Also stores both in global memory where they are wanted. `derivative`
// are the rows of D_i, of which this thread reads only what it has written itself; null: ones.
template <class T>
__device__ __forceinline__ void scale_tangent(const Block<T>& block, const ItemThreads& threads, int i,
                                              const T* derivative, const KeptRows<T>& kept) {
  const StagePlan& stage = block.plan.stage[i];
  const RowTable rows = block.rows();
  threads.for_each_vector<T>(block.plan, stage.K_padded, [&](int row, int channel) {
    T* at = block.state() + rows.state(row) + channel;
    const int64_t place = static_cast<int64_t>(rows.global(row)) * stage.K_padded + channel;
    Vector<T> t = load16(at);
    if (kept.t) store16(kept.t + place, t);
    if (derivative) {
      const Vector<T> d = load16(derivative + place);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) t[e] *= d[e];
      store16(at, t);
    }
    if (kept.scaled) store_operands(kept.scaled, place, t, block.plan.precision);
  });
}

// Stores J v, which the state holds, as rows of the batch.
template <class T>
__device__ __forceinline__ void store_tangent(const Block<T>& block, const ItemThreads& threads, T* product) {
  const int pitch = block.plan.event_pitch;
  const RowTable rows = block.rows();
  threads.for_each_vector<T>(block.plan, pitch, [&](int row, int channel) {
    store16(product + static_cast<int64_t>(rows.global(row)) * pitch + channel,
            load16(block.state() + rows.state(row) + channel));
  });
}

}  // namespace
}  // namespace irf::cuda
