// The resident forward kernel and its launch, to be instantiated for each family of tiles.
#pragma once

#include "cuda/device/anderson.cuh"
#include "cuda/device/operand.cuh"
#include "cuda/resident/forward.h"
#include "cuda/resident/product.cuh"
#include "cuda/resident/tangent.cuh"

namespace irf::cuda {

// A forward walk or an inverse for the device.
template <class T>
struct ForwardArguments {
  ResidentPlan plan;
  const T* weight[kMaxStages];
  Activation activation[kMaxStages];
  const T *bias[kMaxStages], *beta[kMaxStages];
  T* derivative[kMaxStages];  // or null
  int64_t batch;
  const T* x;  // [B, d]: x, or z of an inverse
  T *z, *g;    // or null

  const T* v;                    // [B, d]: walk the tangents of v too; or null
  KeptRows<T> kept[kMaxStages];  // each pointer may be null
  T* tangent_product;            // rows of J v

  bool inverse;
  T* solution;
  T residual_limit;
  int64_t max_iterations;
  T lipschitz;                 // 0: not accelerated
  AndersonState<T>* anderson;  // as in ResidentHistory
  T* history;
  int64_t* iterations;
  T* residual;

  ForwardArguments(const Branch<T>& branch, const std::vector<Buffer<T>>& weights, const ResidentPlan& plan_,
                   const Memory& memory)
      : plan(plan_),
        weight{},
        activation{},
        bias{},
        beta{},
        derivative{},
        batch(branch.batch),
        x(nullptr),
        z(nullptr),
        g(nullptr),
        v(nullptr),
        kept{},
        tangent_product(nullptr),
        inverse(false),
        solution(nullptr),
        residual_limit(0),
        max_iterations(0),
        lipschitz(0),
        anderson(nullptr),
        history(nullptr),
        iterations(nullptr),
        residual(nullptr) {
    for (int i = 0; i < branch.stages; ++i) {
      weight[i] = memory[weights[i]];
      activation[i] = branch.stage[i].activation;
      bias[i] = branch.stage[i].bias;
      beta[i] = branch.stage[i].beta;
    }
  }
};

// One definition for double, two for float: families on tensor cores are in resident/forward_tensor.cu.
template <class T>
cudaError_t launch_resident_forward(const ForwardArguments<T>& p, const Context& context);
cudaError_t launch_resident_forward_tensor(const ForwardArguments<float>& p, const Context& context);

namespace {

// Biases, padded with zeros, and slopes of the activations to shared memory.
template <class T>
__device__ __forceinline__ void load_parameters(const ForwardArguments<T>& p, T* shared) {
  for (int i = 0; i < p.plan.stages; ++i) {
    const StagePlan& stage = p.plan.stage[i];
    for (int c = thread_index(); c < stage.N_padded; c += block_threads())
      shared[stage.bias + c] = p.bias[i] && c < stage.N ? __ldg(p.bias[i] + c) : T(0);
    if (thread_index() == 0) shared[p.plan.slopes + i] = slope_of(p.beta[i]);
  }
}

// The state, and in an inverse z and the first x, from events.
template <class T>
__device__ __forceinline__ void load_events(const ForwardArguments<T>& p, const Block<T>& block, const Group& group,
                                            const T* events) {
  const ResidentPlan& plan = p.plan;
  const Rows rows = block.rows();
  const int size = plan.event_channels * plan.pixels;
  block.for_each_element(group, plan.event_pitch, [&](int slot, int index, int row, int channel) {
    const T element = channel < plan.event_channels ? __ldg(events + (group.first + slot) * size + index) : T(0);
    block.state()[rows.state(row) + channel] = element;
    if (!p.inverse) return;
    block.shared[plan.first_vector + row * plan.event_pitch + channel] = element;
    block.shared[plan.second_vector + row * plan.event_pitch + channel] = element;
  });
}

// state <- phi_i(state), and D_i, a_i and h_i to global memory if wanted. In a loop of its own, since the code of every
// activation is in it.
template <class T>
__device__ __forceinline__ void activate(const ForwardArguments<T>& p, const Block<T>& block, const Share& share,
                                         int i) {
  const StagePlan& stage = p.plan.stage[i];
  const Activation activation = p.activation[i];
  T *derivative = p.derivative[i], *before = p.kept[i].a, *after = p.kept[i].h;
  const T slope = block.shared[p.plan.slopes + i];
  const Rows rows = block.rows();
  share.for_each_vector<T>(p.plan, stage.K_padded, [&](int row, int channel) {
    T* at = block.state() + rows.state(row) + channel;
    const int64_t place = static_cast<int64_t>(rows.global(row)) * stage.K_padded + channel;
    Vector<T> h = load16(at), d;
    if (before) store16(before + place, h);
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) {
      const Jet<T> value = jet(activation, h[e], slope);
      const bool real = channel + e < stage.K;  // phi(0) need not be 0, padding is
      h[e] = real ? value.h : T(0);
      d[e] = real ? value.d : T(0);
    }
    store16(at, h);
    if (after) store_operands(after, place, h, p.plan.precision);
    if (derivative) store16(derivative + place, d);
  });
}

template <class T>
__device__ __forceinline__ void store_values(const ForwardArguments<T>& p, const Block<T>& block, const Group& group) {
  const Rows rows = block.rows();
  const int channels = p.plan.stage[p.plan.stages - 1].N, size = channels * p.plan.pixels;
  block.for_each_element(group, channels, [&](int slot, int index, int row, int channel) {
    const T value = block.state()[rows.state(row) + channel];
    const int64_t at = (group.first + slot) * size + index;
    if (p.g) p.g[at] = value;
    if (p.z) p.z[at] = __ldg(p.x + at) + value;
  });
}

// The fixed-point iteration of an item, in the registers of each of its threads.
template <class T>
struct Iteration {
  T residual, best;
  int64_t count;
  int waited;
  bool active;

  // After evaluation number `evaluation`, which found a residual of this squared length: does the item go on? Returns
  // whether its iterate is undone.
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
      count = evaluation + 1;
    // The last evaluation is that of a step which needs no second one.
    anderson.decide(undone, active && evaluation + 1 < p.max_iterations);
    return undone;
  }
};

// x <- the next iterate of the items that go on; the state, which holds g(x), becomes x. Holds barriers.
template <class T>
__device__ __forceinline__ void accelerated_step(const ForwardArguments<T>& p, const Block<T>& block,
                                                 const Share& share, bool real, int64_t evaluation, bool undone,
                                                 const Iteration<T>& item, const AndersonState<T>& anderson) {
  const ResidentPlan& plan = p.plan;
  const Rows rows = block.rows();
  const T* z = block.shared + plan.first_vector;
  T* x = block.shared + plan.second_vector;
  const int size = plan.pixels * plan.event_pitch, first = share.slot * size;
  T* const vectors = p.history + (int64_t(blockIdx.x) * plan.items + share.slot) * 2 * kHistory * size;
  const History<T> history(vectors, size, evaluation);
  if (real && (item.active || undone))
    share.for_each_vector<T>(plan, plan.event_pitch, [&](int row, int channel) {
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
      share.for_each_vector<T>(plan, plan.event_pitch, [&](int row, int channel) {
        add_step_sums(history, row * plan.event_pitch + channel - first, anderson.seen, sums);
      });
#pragma unroll
    for (int i = 0; i < kStepSums; i += 2) {  // as many as there is room for
      T pair[2] = {sums[i], sums[i + 1]};
      share.sum(block.shared + plan.sums, pair);
      sums[i] = pair[0];
      sums[i + 1] = pair[1];
      __syncthreads();
    }
    if (anderson.tried) least_squares(sums, anderson.seen, weight);
  }
  if (!real) return;
  share.for_each_vector<T>(plan, plan.event_pitch, [&](int row, int channel) {
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

// As accelerated_step, or x <- z - g(x). Holds barriers if an item has more than a warp, or if it is accelerated.
template <class T>
__device__ __forceinline__ void step(const ForwardArguments<T>& p, const Block<T>& block, const Share& share, bool real,
                                     int64_t evaluation, Iteration<T>& item) {
  const ResidentPlan& plan = p.plan;
  const Rows rows = block.rows();
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
    share.for_each_vector<T>(plan, plan.event_pitch, [&](int row, int channel) {
      Vector<T> at, move;
      difference(row, channel, at, move);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) square[0] += move[e] * move[e];
    });
  share.sum(block.shared + plan.sums, square);
  AndersonState<T> anderson{};
  AndersonState<T>* const kept = p.anderson + int64_t(blockIdx.x) * block_threads() + thread_index();
  const bool accelerated = p.lipschitz > T(0);
  if (accelerated && evaluation > 0) anderson = *kept;
  const bool undone = item.decide(p, evaluation, square[0], anderson);
  if (accelerated) {
    *kept = anderson;
    accelerated_step(p, block, share, real, evaluation, undone, item, anderson);
    return;
  }
  if (!real) return;
  share.for_each_vector<T>(plan, plan.event_pitch, [&](int row, int channel) {
    Vector<T> at, move;
    difference(row, channel, at, move);
    if (item.active) {  // a frozen step may be NaN
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) at[e] += move[e];
      store16(x + row * plan.event_pitch + channel, at);
    }
    store16(block.state() + rows.state(row) + channel, at);
  });
}

template <class T>
__device__ __forceinline__ void store_solution(const ForwardArguments<T>& p, const Block<T>& block, const Group& group,
                                               const Share& share, const Iteration<T>& item) {
  const ResidentPlan& plan = p.plan;
  if (share.slot < group.count && share.index == 0) {
    p.iterations[group.first + share.slot] = item.count;
    p.residual[group.first + share.slot] = item.residual;
  }
  const int size = plan.event_channels * plan.pixels;
  const T* x = block.shared + plan.second_vector;
  block.for_each_element(group, plan.event_channels, [&](int slot, int index, int row, int channel) {
    p.solution[(group.first + slot) * size + index] = x[row * plan.event_pitch + channel];
  });
}

template <class Tiles, class T = typename Tiles::Element>
__global__ void __launch_bounds__(kMaxThreads, 1)
    resident_forward_kernel(const __grid_constant__ ForwardArguments<T> p) {
  extern __shared__ __align__(16) unsigned char raw_shared[];
  T* shared = reinterpret_cast<T*>(raw_shared);
  const ResidentPlan& plan = p.plan;
  const Block<T> block{plan, shared};
  const Share share(plan);

  block.clear_state();
  load_parameters(p, shared);
  WeightFeed<T> feed(plan, shared, p.weight);
  for (int64_t index = blockIdx.x; index < plan.groups; index += gridDim.x) {
    const Group group(index, plan.items, p.batch, p.batch);
    const bool real = share.slot < group.count;
    __syncthreads();  // the previous group needs nothing in shared memory any more
    block.fill_rows(group);
    __syncthreads();
    load_events(p, block, group, p.x);
    __pipeline_wait_prior(0);
    __syncthreads();

    Iteration<T> item{T(0), T(INFINITY), 0, 0, real};
    for (int64_t evaluation = 0;; ++evaluation) {
      const bool tangent = p.v && evaluation == 1;
      for (int i = 0; i < plan.stages; ++i) {
        if (real && tangent) scale_tangent(block, share, i, p.derivative[i], p.kept[i]);
        if (real && !tangent) activate(p, block, share, i);
        any_product_stage<Tiles>(block, feed, i, AddBias<T>{tangent ? nullptr : shared + plan.stage[i].bias});
        __syncthreads();
      }
      if (p.v && !tangent) {
        store_values(p, block, group);
        __syncthreads();  // g(x) has been read
        load_events(p, block, group, p.v);
        __syncthreads();
        continue;
      }
      if (!p.inverse) break;
      step(p, block, share, real, evaluation, item);
      if (!__syncthreads_or(item.active)) break;
    }
    if (p.inverse)
      store_solution(p, block, group, share, item);
    else if (p.v && real)
      store_tangent(block, share, p.tangent_product);
    else if (!p.v && (p.z || p.g))
      store_values(p, block, group);
  }
  __pipeline_wait_prior(0);  // a chunk fetched ahead of need
}

template <class Tiles, class T = typename Tiles::Element>
cudaError_t launch_forward(const ForwardArguments<T>& p, const Context& context) {
  const ResidentPlan& plan = p.plan;
  if (const cudaError_t error = allow_shared(resident_forward_kernel<Tiles>, context.card)) return error;
  resident_forward_kernel<Tiles><<<plan.blocks, plan.threads, plan.shared_bytes, context.stream>>>(p);
  return cudaGetLastError();
}

}  // namespace
}  // namespace irf::cuda
