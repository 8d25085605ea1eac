// The resident forward kernel and its launch, to be instantiated for each family of tiles.
#pragma once

#include "cuda/device/operand.cuh"
#include "cuda/resident/inverse.cuh"
#include "cuda/resident/product.cuh"
#include "cuda/resident/tangent.cuh"

namespace irf::cuda {

// Defined in resident/forward.cu, resident/forward_double.cu and, for families on tensor cores, forward_tensor.cu.
template <class T>
cudaError_t launch_resident_forward(const ForwardArguments<T>& p, const Context& context);
cudaError_t launch_resident_forward_tensor(const ForwardArguments<float>& p, const Context& context);

namespace {

// Copies the biases that samples share, padded with zeros, and the slopes of the activations to shared memory.
template <class T>
__device__ __forceinline__ void load_parameters(const ForwardArguments<T>& p, T* shared) {
  for (int i = 0; i < p.plan.stages; ++i) {
    const StagePlan& stage = p.plan.stage[i];
    for (int c = thread_index(); c < stage.N_padded; c += block_threads())
      shared[stage.bias + c] = p.bias[i] && c < stage.N ? __ldg(p.bias[i] + c) : T(0);
    if (thread_index() == 0) shared[p.plan.slopes + i] = slope_of(p.beta[i]);
  }
}

// Fills the state with events; in an inverse, these are z, and the first x.
template <class T>
__device__ __forceinline__ void load_events(const ForwardArguments<T>& p, const Block<T>& block, const ItemGroup& group,
                                            const T* events) {
  const ResidentPlan& plan = p.plan;
  const RowTable rows = block.rows();
  const int size = plan.event_channels * plan.pixels;
  block.for_each_element(group, plan.event_pitch, [&](int slot, int index, int row, int channel) {
    const T element = channel < plan.event_channels ? __ldg(events + (group.first + slot) * size + index) : T(0);
    block.state()[rows.state(row) + channel] = element;
    if (!p.inverse) return;
    block.shared[plan.first_vector + row * plan.event_pitch + channel] = element;
    block.shared[plan.second_vector + row * plan.event_pitch + channel] = element;
  });
}

// state <- phi_i(state), times the factor; before it the bias of the stage before is added where samples have their
// own. Also stores D_i, a_i and h_i in global memory where they are wanted. This is not part of the product's epilogue,
// which is compiled once per tile: the code of every activation is in it.
template <class T>
__device__ __forceinline__ void activate(const ForwardArguments<T>& p, const Block<T>& block,
                                         const ItemThreads& threads, int64_t sample, int i) {
  const StagePlan& stage = p.plan.stage[i];
  const Activation activation = p.activation[i];
  T *derivative = p.derivative[i], *before = p.kept[i].a, *after = p.kept[i].h;
  const Parameters<T> parameters{block.shared[p.plan.slopes + i], p.constant[i]};
  const RowTable rows = block.rows();
  threads.for_each_vector<T>(p.plan, stage.K_padded, [&](int row, int channel) {
    T* at = block.state() + rows.state(row) + channel;
    const int64_t place = static_cast<int64_t>(rows.global(row)) * stage.K_padded + channel;
    const int pixel = row - threads.slot * p.plan.pixels;
    Vector<T> h = load16(at), d;
    const Vector<T> b = p.own_bias[i].load(sample, pixel, channel, T(0));
    const Vector<T> f = p.factor[i].load(sample, pixel, channel, T(1));
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) h[e] += b[e];
    if (before) store16(before + place, h);
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) {
      const Jet<T> value = jet(activation, h[e], parameters_of(activation, parameters, channel + e, stage.K));
      const bool real = channel + e < stage.K;  // phi(0) need not be 0, padding is
      h[e] = real ? f[e] * value.h : T(0);
      d[e] = real ? f[e] * value.d : T(0);
    }
    store16(at, h);
    if (after) store_operands(after, place, h, p.plan.precision);
    if (derivative) store16(derivative + place, d);
  });
}

// Adds the last bias, of which samples have their own, to g(x) in the state.
template <class T>
__device__ __forceinline__ void add_own_bias(const ForwardArguments<T>& p, const Block<T>& block,
                                             const ItemThreads& threads, int64_t sample) {
  const ResidentPlan& plan = p.plan;
  const RowTable rows = block.rows();
  threads.for_each_vector<T>(plan, plan.stage[plan.stages - 1].N_padded, [&](int row, int channel) {
    T* at = block.state() + rows.state(row) + channel;
    Vector<T> g = load16(at);
    const Vector<T> b = p.own_bias[plan.stages].load(sample, row - threads.slot * plan.pixels, channel, T(0));
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) g[e] += b[e];
    store16(at, g);
  });
}

// Stores g(x), which the state holds, and x + g(x).
template <class T>
__device__ __forceinline__ void store_values(const ForwardArguments<T>& p, const Block<T>& block,
                                             const ItemGroup& group) {
  const RowTable rows = block.rows();
  const int channels = p.plan.stage[p.plan.stages - 1].N, size = channels * p.plan.pixels;
  block.for_each_element(group, channels, [&](int slot, int index, int row, int channel) {
    const T value = block.state()[rows.state(row) + channel];
    const int64_t at = (group.first + slot) * size + index;
    if (p.g) p.g[at] = value;
    if (p.z) p.z[at] = __ldg(p.x + at) + value;
  });
}

// A forward walk evaluates g once. With v it walks a second time, with the tangents of v as the state and without
// biases and activations. An inverse evaluates g until every item of the group has stopped.
template <class Tiles, class T = typename Tiles::Element>
__global__ void __launch_bounds__(kMaxThreads, 1)
    resident_forward_kernel(const __grid_constant__ ForwardArguments<T> p) {
  extern __shared__ __align__(16) unsigned char raw_shared[];
  T* shared = reinterpret_cast<T*>(raw_shared);
  const ResidentPlan& plan = p.plan;
  const Block<T> block{plan, shared};
  const ItemThreads threads(plan);

  block.clear_state();
  load_parameters(p, shared);
  WeightStream<T> stream(plan, shared, p.weight);
  for (int64_t index = blockIdx.x; index < plan.groups; index += gridDim.x) {
    const ItemGroup group(index, plan.items, p.batch, p.batch);
    const bool real = threads.slot < group.count;
    __syncthreads();  // the previous group needs nothing in shared memory any more
    block.fill_rows(group);
    __syncthreads();
    load_events(p, block, group, p.x);
    __pipeline_wait_prior(0);
    __syncthreads();

    Iteration<T> item(real);
    for (int64_t evaluation = 0;; ++evaluation) {
      const bool tangent = p.v && evaluation == 1;
      for (int i = 0; i < plan.stages; ++i) {
        if (real && tangent) scale_tangent(block, threads, i, p.derivative[i], p.kept[i]);
        if (real && !tangent) activate(p, block, threads, group.first + threads.slot, i);
        any_product_stage<Tiles>(block, stream, i, AddBias<T>{tangent ? nullptr : shared + plan.stage[i].bias});
        __syncthreads();
      }
      if (p.own_bias[plan.stages].numbers && !tangent) {
        if (real) add_own_bias(p, block, threads, group.first + threads.slot);
        __syncthreads();  // g(x) is complete
      }
      if (p.v && !tangent) {
        store_values(p, block, group);
        __syncthreads();  // g(x) has been read
        load_events(p, block, group, p.v);
        __syncthreads();
        continue;
      }
      if (!p.inverse) break;
      step(p, block, threads, real, evaluation, item);
      if (!__syncthreads_or(item.active)) break;
    }
    if (p.inverse)
      store_solution(p, block, group, threads, item);
    else if (p.v && real)
      store_tangent(block, threads, p.tangent_product);
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
