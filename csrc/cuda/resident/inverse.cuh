// The fixed-point iteration of a resident inverse, x <- z - g(x), with Anderson's acceleration where it is wanted.
#pragma once

#include "cuda/device/anderson.cuh"
#include "cuda/resident/block.cuh"
#include "cuda/resident/forward_arguments.cuh"

namespace irf::cuda {
namespace {

// The fixed-point iteration of an item, in the registers of each of its threads.
template <class T>
struct Iteration {
  T residual = T(0);       // |z - g(x) - x| at the x that the item stands at
  T best = T(INFINITY);    // the least residual of all evaluations
  int64_t iterations = 0;  // steps taken
  int waited = 0;          // evaluations since the best one
  bool active;             // the item goes on

  __device__ __forceinline__ explicit Iteration(bool real) : active(real) {}

  // Decides after evaluation number `evaluation`, which found a residual of this squared length, whether the item goes
  // on. Returns whether the step that led to this evaluation is undone.
  __device__ __forceinline__ bool decide(const ForwardArguments<T>& p, int64_t evaluation, T square,
                                         AndersonState<T>& anderson) {
    if (!active) return false;
    const T found = sqrt(square);
    const bool undone = anderson.accept(found, p.lipschitz), better = found < best;
    residual = anderson.norm;
    if (better) best = found;
    waited = better ? 0 : waited + 1;
    // `!(>)`: a NaN residual will not heal, so it stops too, unless it is that of a step which is undone.
    const bool stop = !(found > p.residual_limit) && !undone;
    if (stop || waited == patience(p.lipschitz) || evaluation == p.max_iterations)
      active = false;
    else
      iterations = evaluation + 1;
    // The last evaluation is that of a step which needs no second one.
    anderson.decide(undone, active && evaluation + 1 < p.max_iterations);
    return undone;
  }
};

// x <- the next iterate of the items that go on; then the state, which holds g(x), becomes x. Contains barriers.
template <class T>
__device__ __forceinline__ void accelerated_step(const ForwardArguments<T>& p, const Block<T>& block,
                                                 const ItemThreads& threads, bool real, int64_t evaluation, bool undone,
                                                 const Iteration<T>& item, const AndersonState<T>& anderson) {
  const ResidentPlan& plan = p.plan;
  const RowTable rows = block.rows();
  const T* z = block.shared + plan.first_vector;
  T* x = block.shared + plan.second_vector;
  const int size = plan.pixels * plan.event_pitch, first = threads.slot * size;
  T* const vectors = p.history + (int64_t(blockIdx.x) * plan.items + threads.slot) * 2 * kHistory * size;
  const History<T> history(vectors, size, evaluation);
  if (real && (item.active || undone))
    threads.for_each_vector<T>(plan, plan.event_pitch, [&](int row, int channel) {
      const int at = row * plan.event_pitch + channel;
      Vector<T> now = load16(x + at), r = load16(block.state() + rows.state(row) + channel);
      const Vector<T> target = load16(z + at);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) r[e] = target[e] - now[e] - r[e];
      if (undone) {
        now = load16(history.x(1) + at - first);
        r = load16(history.r(1) + at - first);
        store16(x + at, now);
      }
      store16(history.x(0) + at - first, now);
      store16(history.r(0) + at - first, r);
    });
  T weight[kWindow] = {};
  if (__syncthreads_or(anderson.tried)) {  // also the barrier between two sums
    T sums[kStepSums] = {};
    if (anderson.tried)
      threads.for_each_vector<T>(plan, plan.event_pitch, [&](int row, int channel) {
        add_step_sums(history, row * plan.event_pitch + channel - first, anderson.seen, sums);
      });
#pragma unroll
    for (int i = 0; i < kStepSums; i += 2) {  // as many as there is room for
      T pair[2] = {sums[i], sums[i + 1]};
      threads.sum(block.shared + plan.sums, pair);
      sums[i] = pair[0];
      sums[i + 1] = pair[1];
      __syncthreads();
    }
    if (anderson.tried) least_squares(sums, anderson.seen, weight);
  }
  if (!real) return;
  threads.for_each_vector<T>(plan, plan.event_pitch, [&](int row, int channel) {
    const int at = row * plan.event_pitch + channel;
    Vector<T> now = load16(x + at);
    if (item.active) {
      Vector<T> move = load16(history.r(0) + at - first);
      if (anderson.tried) subtract_step(history, at - first, anderson.seen, weight, move);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) now[e] += move[e];
      store16(x + at, now);
    }
    store16(block.state() + rows.state(row) + channel, now);
  });
}

// One iteration: x <- z - g(x), or accelerated_step. Contains barriers if an item has more threads than a warp, or if
// it is accelerated.
template <class T>
__device__ __forceinline__ void step(const ForwardArguments<T>& p, const Block<T>& block, const ItemThreads& threads,
                                     bool real, int64_t evaluation, Iteration<T>& item) {
  const ResidentPlan& plan = p.plan;
  const RowTable rows = block.rows();
  T *z = block.shared + plan.first_vector, *x = block.shared + plan.second_vector;
  auto difference = [&](int row, int channel, Vector<T>& at, Vector<T>& move) {
    const Vector<T> target = load16(z + row * plan.event_pitch + channel);
    const Vector<T> g = load16(block.state() + rows.state(row) + channel);
    at = load16(x + row * plan.event_pitch + channel);
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) move[e] = target[e] - at[e] - g[e];
  };
  T square[1] = {T(0)};
  if (real)
    threads.for_each_vector<T>(plan, plan.event_pitch, [&](int row, int channel) {
      Vector<T> at, move;
      difference(row, channel, at, move);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) square[0] += move[e] * move[e];
    });
  threads.sum(block.shared + plan.sums, square);
  AndersonState<T> anderson{};
  AndersonState<T>* const kept = p.anderson + int64_t(blockIdx.x) * block_threads() + thread_index();
  const bool accelerated = p.lipschitz > T(0);
  if (accelerated && evaluation > 0) anderson = *kept;
  const bool undone = item.decide(p, evaluation, square[0], anderson);
  if (accelerated) {
    *kept = anderson;
    accelerated_step(p, block, threads, real, evaluation, undone, item, anderson);
    return;
  }
  if (!real) return;
  threads.for_each_vector<T>(plan, plan.event_pitch, [&](int row, int channel) {
    Vector<T> at, move;
    difference(row, channel, at, move);
    if (item.active) {  // the step of an item that has stopped may be NaN
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) at[e] += move[e];
      store16(x + row * plan.event_pitch + channel, at);
    }
    store16(block.state() + rows.state(row) + channel, at);
  });
}

// Stores x, the steps taken and the residual of every item of the group.
template <class T>
__device__ __forceinline__ void store_solution(const ForwardArguments<T>& p, const Block<T>& block,
                                               const ItemGroup& group, const ItemThreads& threads,
                                               const Iteration<T>& item) {
  const ResidentPlan& plan = p.plan;
  if (threads.slot < group.count && threads.index == 0) {
    p.iterations[group.first + threads.slot] = item.iterations;
    p.residual[group.first + threads.slot] = item.residual;
  }
  const int size = plan.event_channels * plan.pixels;
  const T* x = block.shared + plan.second_vector;
  block.for_each_element(group, plan.event_channels, [&](int slot, int index, int row, int channel) {
    p.solution[(group.first + slot) * size + index] = x[row * plan.event_pitch + channel];
  });
}

}  // namespace
}  // namespace irf::cuda
