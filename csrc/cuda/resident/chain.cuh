// The resident chain kernel and its launch, to be instantiated for each family of tiles.
#pragma once

#include "cuda/resident/chain.h"
#include "cuda/resident/product.cuh"

namespace irf::cuda {
namespace {

// A chain, with everything that the kernel reads and writes. Lists are by product, in order of execution.
template <class T>
struct ChainArguments {
  ResidentPlan plan;
  const T* weight[kMaxStages] = {};
  const T* derivative[kMaxStages] = {};  // rows that the product is multiplied by; null: ones
  const T* entry = nullptr;              // rows that w is multiplied by before the first product of J; or null: none
  int64_t batch, items, first_unit;
  const T* probe;
  Series<T> series;
  T* powers;
  int64_t power_stride, probe_stride, sample_stride;
  const T* tangent;  // rows of J v, or null

  ChainArguments(const Chain<T>& chain, const ResidentPlan& plan_, const Memory& memory)
      : plan(plan_),
        batch(chain.branch.batch),
        items(chain.items()),
        first_unit(chain.first_unit),
        probe(chain.probe),
        series(chain.series_of_items(memory)),
        powers(chain.powers),
        power_stride(chain.power_stride),
        probe_stride(chain.probe_stride),
        sample_stride(chain.sample_stride),
        tangent(memory[chain.tangent]) {
    if (!series.value) {  // a chain of powers takes all its terms
      series.per_sample = false;
      series.tail = nullptr;
    }
    const int stages = chain.branch.stages;
    for (int i = 0; i < stages; ++i) {
      const int stage = chain.transpose ? stages - 1 - i : i;
      weight[i] = memory[chain.weights[stage]];
      // J^T = D_0 A_0^T .. D_{L-1} A_{L-1}^T: after the product with A_i^T comes D_i.
      // J = A_{L-1} D_{L-1} .. A_0 D_0: after the product with A_i comes D_{i+1}, and D_0 comes before all.
      if (chain.transpose)
        derivative[i] = memory[chain.derivatives[stage]];
      else if (i + 1 < stages)
        derivative[i] = memory[chain.derivatives[i + 1]];
    }
    if (!chain.transpose) entry = memory[chain.derivatives[0]];
  }
};

// The series of an item as far as it has come, in the registers of each of its threads.
template <class T>
struct SeriesState {
  T value;        // of the terms taken
  T norm;         // |w_k| of the last of them
  T limit;        // the item stops where |w_k| tail_k is not above it
  T coefficient;  // of w_k in the Neumann vector
  int terms;      // taken
  int last;       // the term that the series ends with at the latest
  bool active;    // the item takes the next term

  // Begins with w_0 = v, `square` = |v|^2. `shared_last` is the last term where all samples have the same coefficients.
  __device__ __forceinline__ void start(const Series<T>& series, bool real, int64_t sample, int shared_last, T square) {
    value = T(0);
    norm = sqrt(square);
    limit = series.relative ? series.tolerance * norm : series.tolerance / norm;
    terms = 0;
    last = series.per_sample && real ? last_term(series.coefficients_of(sample), series.terms) : shared_last;
    active = real && last > 0;
    coefficient = active ? q(series, sample, 1) : T(0);
  }

  // Adds term k, from `dot` = <w_k, v> and `square` = |w_k|^2, and decides whether the item takes another.
  __device__ __forceinline__ void add(const Series<T>& series, int64_t sample, int k, T dot, T square) {
    if (!active) return;
    value += (k % 2 ? q(series, sample, k) : -q(series, sample, k)) / static_cast<T>(k) * dot;
    norm = sqrt(square);
    terms = k;
    active = k < last && !(series.tail && norm * __ldg(series.tail + k - 1) <= limit);
    if (active) coefficient = k % 2 ? -q(series, sample, k + 1) : q(series, sample, k + 1);
  }

 private:
  // Of term k, which is left out where the trace takes its place.
  static __device__ __forceinline__ T q(const Series<T>& series, int64_t sample, int k) {
    return k > series.traces.count ? __ldg(series.coefficients_of(sample) + k - 1) : T(0);
  }
};

// The epilogue of product `index`.
template <class T>
__device__ __forceinline__ ScaleByRows<T> scale_of(const ChainArguments<T>& p, T* shared, int index) {
  const StagePlan& stage = p.plan.stage[index];
  return {stage.derivative != kNotShared ? shared + stage.derivative : nullptr, p.derivative[index], stage.N_padded};
}

// Copies the derivatives of the group to their places in shared memory. The caller waits.
template <class T>
__device__ __forceinline__ void load_derivatives(const ChainArguments<T>& p, const Block<T>& block,
                                                 const ItemGroup& group) {
  const ResidentPlan& plan = p.plan;
  for (int i = 0; i < plan.stages; ++i)
    if (plan.stage[i].derivative != kNotShared)
      block.load_rows(block.shared + plan.stage[i].derivative, p.derivative[i], plan.pixels * plan.stage[i].N_padded,
                      group);
  if (plan.entry != kNotShared)
    block.load_rows(block.shared + plan.entry, p.entry, plan.pixels * plan.event_pitch, group);
  __pipeline_commit();
}

// state <- w_0, the probe. A series also keeps it in shared memory, as v.
template <class T>
__device__ __forceinline__ void load_probe(const ChainArguments<T>& p, const Block<T>& block, const ItemGroup& group) {
  const ResidentPlan& plan = p.plan;
  const RowTable rows = block.rows();
  T* v = plan.first_vector != kNotShared ? block.shared + plan.first_vector : nullptr;
  const int size = plan.event_channels * plan.pixels;
  block.for_each_element(group, plan.event_pitch, [&](int slot, int index, int row, int channel) {
    T element = T(0);
    if (channel < plan.event_channels)
      element =
          p.probe ? __ldg(p.probe + (group.first + slot) * size + index) : T(index == p.first_unit + group.probe(slot));
    block.state()[rows.state(row) + channel] = element;
    if (v) v[row * plan.event_pitch + channel] = element;
  });
}

// state <- D_0 state, before the first product of J. (J^T has D_0 in its last epilogue.)
template <class T>
__device__ __forceinline__ void scale_entry(const ChainArguments<T>& p, const Block<T>& block,
                                            const ItemThreads& threads) {
  const ResidentPlan& plan = p.plan;
  const RowTable rows = block.rows();
  const ScaleByRows<T> scale{plan.entry != kNotShared ? block.shared + plan.entry : nullptr, p.entry, plan.event_pitch};
  threads.for_each_vector<T>(plan, plan.event_pitch, [&](int row, int channel) {
    T* at = block.state() + rows.state(row) + channel;
    Vector<T> w = load16(at), d;
    scale.load(d.at, rows, row, channel);
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) w[e] *= d[e];
    store16(at, w);
  });
}

// Stores w_k, which the state holds, in torch's layout.
template <class T>
__device__ __forceinline__ void store_power(const ChainArguments<T>& p, const Block<T>& block, const ItemGroup& group,
                                            int k) {
  const RowTable rows = block.rows();
  block.for_each_element(group, p.plan.event_channels, [&](int slot, int index, int row, int channel) {
    p.powers[(k - 1) * p.power_stride + group.probe(slot) * p.probe_stride + group.sample(slot) * p.sample_stride +
             index] = block.state()[rows.state(row) + channel];
  });
}

// What the threads of an item do with w_k for k = 0 .. terms, while the state holds it: they take its sums into the
// series and add it to the Neumann vector. With J v at hand, the last term is made of w_{n-1} and J v (n = terms): the
// pass of k = n then sees w_{n-1} a second time.
template <class T>
struct TermPass {
  const ChainArguments<T>& p;
  const Block<T>& block;
  const ItemThreads& threads;
  const ItemGroup& group;
  int64_t sample;
  int terms;
  SeriesState<T> state;

  __device__ __forceinline__ void operator()(int k) {
    const ResidentPlan& plan = p.plan;
    const RowTable rows = block.rows();
    const T* v = block.shared + plan.first_vector;
    T* y = p.series.neumann ? block.shared + plan.second_vector : nullptr;
    const bool shortcut = p.tangent && k > 0 && k == terms;
    T sums[2] = {T(0), T(0)};  // <w_k, v>, |w_k|^2
    const bool mine = threads.slot < group.count;
    if (mine)
      threads.for_each_vector<T>(plan, plan.event_pitch, [&](int row, int channel) {
        const Vector<T> w = load16(block.state() + rows.state(row) + channel);
        const Vector<T> u = shortcut
                                ? load16_readonly(p.tangent + int64_t(rows.global(row)) * plan.event_pitch + channel)
                                : load16(v + row * plan.event_pitch + channel);
#pragma unroll
        for (int e = 0; e < kVector<T>; ++e) {
          sums[0] += w[e] * u[e];
          sums[1] += w[e] * w[e];
        }
      });
    threads.sum(block.shared + plan.sums, sums);
    if (k == 0)
      state.start(p.series, mine, sample, terms, sums[1]);
    else
      state.add(p.series, sample, k, sums[0], sums[1]);
    if (!y || !(k == 0 ? mine : state.active)) return;
    threads.for_each_vector<T>(plan, plan.event_pitch, [&](int row, int channel) {
      const Vector<T> w = load16(block.state() + rows.state(row) + channel);
      T* at = y + row * plan.event_pitch + channel;
      Vector<T> sum = k == 0 ? zero16<T>() : load16(at);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) sum[e] += state.coefficient * w[e];
      store16(at, sum);
    });
  }
};

// Stores what the series of the group have come to.
template <class T>
__device__ __forceinline__ void store_results(const ChainArguments<T>& p, const Block<T>& block, const ItemGroup& group,
                                              const ItemThreads& threads, const SeriesState<T>& state) {
  if (threads.slot < group.count && threads.index == 0) {
    const int64_t item = group.first + threads.slot;
    p.series.value[item] = state.value;
    p.series.norms[item] = state.norm;
    p.series.terms_used[item] = state.terms;
  }
  if (!p.series.neumann) return;
  __syncthreads();  // y is complete
  const ResidentPlan& plan = p.plan;
  const int size = plan.event_channels * plan.pixels;
  const T* y = block.shared + plan.second_vector;
  block.for_each_element(group, plan.event_channels, [&](int slot, int index, int row, int channel) {
    p.series.neumann[(group.first + slot) * size + index] = y[row * plan.event_pitch + channel];
  });
}

// Group by group: every item's whole chain. A group ends when all its items have stopped.
template <class Tiles, class T = typename Tiles::Element>
__global__ void __launch_bounds__(kMaxThreads, 1) resident_chain_kernel(const __grid_constant__ ChainArguments<T> p) {
  extern __shared__ __align__(16) unsigned char raw_shared[];
  T* shared = reinterpret_cast<T*>(raw_shared);
  const ResidentPlan& plan = p.plan;
  const Block<T> block{plan, shared};
  const ItemThreads threads(plan);

  const Series<T>& series = p.series;
  const int terms = series.value && !series.per_sample ? last_term(series.coefficients, series.terms) : series.terms;
  block.clear_state();
  WeightStream<T> stream(plan, shared, p.weight);
  for (int64_t g = blockIdx.x; g < plan.groups; g += gridDim.x) {
    const ItemGroup group(g, plan.items, p.items, p.batch);
    __syncthreads();  // the previous group needs nothing in shared memory any more
    block.fill_rows(group);
    load_derivatives(p, block, group);
    __syncthreads();
    load_probe(p, block, group);
    __pipeline_wait_prior(0);
    __syncthreads();

    TermPass<T> pass{p, block, threads, group, threads.slot < group.count ? group.sample(threads.slot) : 0, terms, {}};
    if (series.value) pass(0);
    for (int k = 1; k <= terms; ++k) {
      if (p.entry) {
        __syncthreads();
        if (threads.slot < group.count) scale_entry(p, block, threads);
      }
      const int products = p.tangent && k == terms ? 0 : plan.stages;
      for (int i = 0; i < products; ++i) any_product_stage<Tiles>(block, stream, i, scale_of(p, shared, i));
      __syncthreads();
      if (p.powers) store_power(p, block, group, k);
      if (series.value) pass(k);
      if ((series.tail || series.per_sample) && !__syncthreads_or(pass.state.active)) break;
    }
    if (series.value) store_results(p, block, group, threads, pass.state);
  }
  __pipeline_wait_prior(0);  // a chunk fetched ahead of need
}

template <class Tiles, class T = typename Tiles::Element>
cudaError_t launch_chain(const Chain<T>& chain, const ResidentPlan& plan, const Context& context) {
  const ChainArguments<T> p(chain, plan, context.memory);
  if (const cudaError_t error = allow_shared(resident_chain_kernel<Tiles>, context.card)) return error;
  resident_chain_kernel<Tiles><<<plan.blocks, plan.threads, plan.shared_bytes, context.stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

// Families on tensor cores are in resident/chain_tensor.cu.
cudaError_t resident_chain_tensor(const Chain<float>& chain, const ResidentPlan& plan, const Context& context);

}  // namespace irf::cuda
