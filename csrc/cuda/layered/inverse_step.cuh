// The kernels of an iteration of the layered inverse: x moves, its residual is taken, and it is decided which samples
// move on and whether by Anderson's method.
#pragma once

#include "cuda/device/anderson.cuh"
#include "cuda/layered/activate.cuh"
#include "cuda/layered/inverse.h"
#include "cuda/layered/item_sums.cuh"
#include "cuda/layered/rows.cuh"

namespace irf::cuda {
namespace {

// What the kernels take: pointers to the scratch of LayeredInverse, null where there is none.
template <class T>
struct InverseState {
  T *z, *x, *step;
  T* best;
  int *waited, *active;
  unsigned* stopped;  // null: nobody looks
  AndersonState<T>* anderson;
  int* undone;
  T* history;

  InverseState(const LayeredInverse<T>& scratch, const Memory& memory)
      : z(memory[scratch.z]),
        x(memory[scratch.x]),
        step(memory[scratch.step]),
        best(memory[scratch.best]),
        waited(memory[scratch.waited]),
        active(memory[scratch.active]),
        stopped(memory[scratch.stopped]),
        anderson(memory[scratch.anderson]),
        undone(memory[scratch.undone]),
        history(memory[scratch.history]) {}
};

// After the last product: the step z - x - g(x), and its square.
template <class T>
struct InverseStep {
  static constexpr int kUnroll = 2;

  StageOperand<T> bias;
  int pitch;
  const T *z, *x;
  T* step;
  ItemSums<T, 1> sums;

  __device__ void begin() {}

  struct Ahead {
    Vector<T> z, x;
  };
  __device__ __forceinline__ Ahead load(const RowPlace& place, int column, bool inside) const {
    Ahead ahead{};
    if (!inside) return ahead;
    const int64_t at = place.row * pitch + column;
    ahead.z = load16_readonly(z + at);
    ahead.x = load16_readonly(x + at);
    return ahead;
  }

  template <int LANES>
  __device__ __forceinline__ void apply(const RowPlace& place, int column, bool inside, const Vector<T>& product,
                                        const Ahead& ahead) {
    T square[1] = {T(0)};
    if (inside) {
      const Vector<T> b = bias.load(place.sample, place.pixel, column, T(0));
      Vector<T> result;
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) {
        result[e] = ahead.z[e] - ahead.x[e] - (product[e] + b[e]);
        square[0] += result[e] * result[e];
      }
      store16(step + place.row * pitch + column, result);
    }
    sums.template add<LANES>(place, column, inside, square);
  }
};

// Threads side by side along a row.
__host__ __device__ int row_lanes(const RowsLayout& layout) { return layout.pitch >= 128 ? kWarp : 4; }

// x <- x + step where a sample still moves (x <- z at first), and the first activation of it.
template <class T>
__global__ void __launch_bounds__(kRowsThreads, 1)
    advance_kernel(const InverseState<T> state, const RowsLayout layout, bool first, Activate<T> activate) {
  const int thread = static_cast<int>(threadIdx.x), lanes = row_lanes(layout);
  const int64_t row = int64_t(blockIdx.x) * (kRowsThreads / lanes) + thread / lanes;
  if (row >= layout.items * layout.pixels) return;
  const RowPlace place(row, layout.pixels, layout.samples);
  if (!first && !state.active[place.item]) return;  // and its step may be NaN
  activate.begin();
  for (int column = thread % lanes * kVector<T>; column < layout.pitch; column += lanes * kVector<T>) {
    const int64_t at = row * layout.pitch + column;
    Vector<T> x = load16((first ? state.z : state.x) + at);
    if (!first) {
      const Vector<T> step = load16_readonly(state.step + at);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) x[e] += step[e];
    }
    store16(state.x + at, x);
    activate.template apply<1>(place, column, true, x);
  }
}

// After evaluation number `iteration`: which samples move on.
template <class T>
__global__ void __launch_bounds__(kItemThreads) decide_kernel(const InverseState<T> state, const ItemSums<T, 1> sums,
                                                              const ResidualInverseOperands<T> op, int64_t iteration) {
  int64_t sample;
  T square[1];
  if (!sums.gather(sample, square)) return;
  if (iteration > 0 && !state.active[sample]) {
    if (state.undone) state.undone[sample] = 0;
    return;
  }
  const T found = sqrt(square[0]);
  const bool better = iteration == 0 ? found < T(INFINITY) : found < state.best[sample];
  const int waited = better ? 0 : iteration == 0 ? 1 : state.waited[sample] + 1;
  if (iteration == 0 || better) state.best[sample] = better ? found : T(INFINITY);
  state.waited[sample] = waited;
  AndersonState<T> anderson{};
  if (state.anderson && iteration > 0) anderson = state.anderson[sample];
  const bool undone = anderson.accept(found, op.lipschitz);
  op.residual[sample] = anderson.norm;
  // `!(>)`: a NaN residual will not heal, so it stops too, unless it is that of a step which is undone.
  const bool stop =
      (!(found > op.residual_limit) && !undone) || waited == patience(op.lipschitz) || iteration == op.max_iterations;
  state.active[sample] = stop ? 0 : 1;
  op.iterations[sample] = stop ? iteration : iteration + 1;
  if (stop && state.stopped) atomicAdd(state.stopped, 1u);
  if (!state.anderson) return;
  // The last evaluation is that of a step which needs no second one.
  anderson.decide(undone, !stop && iteration + 1 < op.max_iterations);
  state.anderson[sample] = anderson;
  state.undone[sample] = undone ? 1 : 0;
}

// After that: x and its residual, which the product left as the step, become the newest of the history, or again what
// was the newest where x is undone; and the step becomes that of Anderson's method where it is tried. A block for each
// sample.
template <class T>
__global__ void __launch_bounds__(kItemThreads, 1)
    accelerate_kernel(const InverseState<T> state, const RowsLayout layout, int64_t iteration) {
  __shared__ T partial[kItemThreads / kWarp][kStepSums];
  const int64_t sample = blockIdx.x;
  const bool undone = state.undone[sample];
  if (!state.active[sample] && !undone) return;
  const AndersonState<T> anderson = state.anderson[sample];
  const int thread = static_cast<int>(threadIdx.x), size = layout.pixels * layout.pitch;
  const History<T> history(state.history + sample * size, layout.row_elements(), iteration);
  T *const x = state.x + sample * size, *const step = state.step + sample * size;
  T sums[kStepSums] = {};
  for (int at = thread * kVector<T>; at < size; at += kItemThreads * kVector<T>) {
    const Vector<T> now = load16((undone ? history.x(1) : x) + at), r = load16((undone ? history.r(1) : step) + at);
    if (undone) {
      store16(x + at, now);
      store16(step + at, r);
    }
    store16(history.x(0) + at, now);
    store16(history.r(0) + at, r);
    if (anderson.tried) add_step_sums(history, at, anderson.seen, sums);
  }
  if (!anderson.tried) return;
#pragma unroll
  for (int i = 0; i < kStepSums; ++i) {
    const T sum = sum_lanes(sums[i]);
    if (thread % kWarp == 0) partial[thread / kWarp][i] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kStepSums; ++i) {
    sums[i] = T(0);
    for (int warp = 0; warp < kItemThreads / kWarp; ++warp) sums[i] += partial[warp][i];
  }
  T weight[kWindow];
  least_squares(sums, anderson.seen, weight);
  for (int at = thread * kVector<T>; at < size; at += kItemThreads * kVector<T>) {
    Vector<T> move = load16(step + at);
    subtract_step(history, at, anderson.seen, weight, move);
    store16(step + at, move);
  }
}

}  // namespace
}  // namespace irf::cuda
