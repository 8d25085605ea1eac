#include <algorithm>
#include <utility>

#include "cuda/layered/chain_step.cuh"
#include "cuda/layered/launch_product.cuh"
#include "cuda/layered/rows.cuh"
#include "cuda/layered/sums.h"
#include "cuda/layered/trace_source.cuh"
#include "cuda/layered/traces.h"

namespace irf::cuda {
namespace {

constexpr int kTraceThreads = 256;

// An epilogue that takes in map D_right, or the map itself: its product with D_left.
template <class T>
struct TraceStep {
  static constexpr int kUnroll = 2;

  const T* d;  // rows of D_left
  int pitch;
  ItemSums<T, 1> sums;

  __device__ void begin() {}

  struct Ahead {
    Vector<T> d;
  };
  __device__ __forceinline__ Ahead load(const RowPlace& place, int column, bool inside) const {
    Ahead ahead{};
    if (inside) ahead.d = load16_readonly(d + place.row * pitch + column);
    return ahead;
  }

  template <int LANES>
  __device__ __forceinline__ void apply(const RowPlace& place, int column, bool inside, const Vector<T>& u,
                                        const Ahead& ahead) {
    T values[1] = {T(0)};
    if (inside) {
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) values[0] += ahead.d[e] * u[e];
    }
    sums.template add<LANES>(place, column, inside, values);
  }
};

// The sums of rows of every trace: `count` of them for a sample, one sample after the other.
template <class T>
struct TracePartials {
  const T* partials[kMostTraces];
  int count[kMostTraces];
};

// value[b] += the traces of sample b, each times its factor. `lanes` threads share a sample, a power of two.
template <class T>
__global__ void __launch_bounds__(kTraceThreads)
    add_traces_kernel(const Traces<T> traces, const TracePartials<T> of, int64_t samples, int lanes, T* value) {
  __shared__ T warp_sums[kTraceThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % lanes;
  const int64_t sample = (int64_t(blockIdx.x) * kTraceThreads + thread) / lanes;
  T sum = T(0);
#pragma unroll
  for (int i = 0; i < kMostTraces; ++i) {
    if (i >= traces.count || sample >= samples) continue;
    const T* from = of.partials[i] + sample * of.count[i];
    T trace = T(0);
#pragma unroll 4
    for (int j = lane; j < of.count[i]; j += lanes) trace += from[j];
    sum += traces.factor(sample, i) * trace;
  }
  sum = sum_lanes(sum, lanes < kWarp ? lanes : kWarp);
  if (lanes > kWarp) {
    if (thread % kWarp == 0) warp_sums[warp] = sum;
    __syncthreads();
    if (lane == 0)
      for (int i = 1; i < lanes / kWarp; ++i) sum += warp_sums[warp + i];
  }
  if (lane == 0 && sample < samples) value[sample] += sum;
}

// The tiles of columns that the sums of a row are made of.
template <class T>
int tiles_of(const StageProduct<T>& product, const Target& target) {
  return ceil_div(product.columns, plan_of(product, target).epilogue_columns);
}
// The same where no product but to_rows leaves them.
template <class T>
int tiles_of(const RowsLayout& layout) {
  return layout.pitch / kVector<T>;
}

}  // namespace

template <class T>
LayeredTraces<T>::LayeredTraces(const Branch<T>& branch, const Traces<T>& traces, std::vector<Buffer<T>> derivatives,
                                T* value, const Target& target, Workspace& workspace)
    : branch_(branch),
      traces_(traces),
      derivatives_(std::move(derivatives)),
      value_(value),
      maps_(branch, traces),
      packed_(maps_.branch(), Form::kForward, target.precision, Packing::kOperands, workspace),
      operands_(traces.count),
      partials_(traces.count) {
  const Branch<T> maps = maps_.branch();
  share_sums(maps, 1, target, workspace);
  for (int i = 0; i < traces.count; ++i) {
    const Trace<T>& trace = traces.trace[i];
    const RowsLayout left = layout_of(branch, trace.left, target.precision);
    int tiles = tiles_of<T>(left);
    if (trace.right >= 0) {
      const int64_t size = layout_of(branch, trace.right, target.precision).row_elements();
      if (target.precision != Precision::kFull) operands_[i] = workspace.take<T>(operand_size(size, target.precision));
      tiles = tiles_of(product_of<T>(maps, maps_[i], false, target.precision, nullptr, nullptr, branch.batch), target);
    }
    partials_[i] = workspace.take<T>(left.items * left.pixels * tiles);
  }
}

// Leaves the sums of rows of a trace, `count` of them for a sample.
template <class T>
cudaError_t LayeredTraces<T>::sum_rows(int i, const Context& context, int& count) const {
  const Memory& memory = context.memory;
  const Trace<T>& trace = traces_.trace[i];
  const RowsLayout left = layout_of(branch_, trace.left, context.precision);
  TraceStep<T> step{memory[derivatives_[trace.left]], left.pitch, {}};
  if (trace.right < 0) {
    step.sums = ItemSums<T, 1>(memory[partials_[i]], left.items, left.pixels, tiles_of<T>(left));
    count = step.sums.count;
    return to_rows<T>(left, TraceSource<T>{trace.map, nullptr, {}, 0}, step, context.stream);
  }
  const T* from = memory[derivatives_[trace.right]];
  if (operands_[i]) {
    const RowsLayout right = layout_of(branch_, trace.right, context.precision);
    ChainStep<T> round{};
    round.pitch = right.pitch;
    round.d = from;
    round.out = memory[operands_[i]];
    round.precision = context.precision;
    const cudaError_t error = to_rows<T>(right, TraceSource<T>{nullptr, nullptr, {}, 0}, round, context.stream);
    if (error != cudaSuccess) return error;
    from = round.out;
  }
  const int map = maps_[i];
  const StageProduct<T> product =
      product_of<T>(maps_.branch(), map, false, context.precision, memory[packed_.buffers()[map]], from, branch_.batch);
  step.sums = ItemSums<T, 1>(memory[partials_[i]], left.items, left.pixels, tiles_of(product, context));
  count = step.sums.count;
  return launch_product(product, step, context);
}

template <class T>
cudaError_t LayeredTraces<T>::launch(const Context& context) const {
  if (traces_.count == 0 || branch_.batch == 0) return cudaSuccess;
  cudaError_t error = packed_.launch(context);
  TracePartials<T> sums{};
  int lanes = 1;
  for (int i = 0; i < traces_.count && error == cudaSuccess; ++i) {
    error = sum_rows(i, context, sums.count[i]);
    sums.partials[i] = context.memory[partials_[i]];
    while (lanes < kTraceThreads && 4 * lanes < sums.count[i]) lanes *= 2;
  }
  if (error != cudaSuccess) return error;
  const unsigned blocks = static_cast<unsigned>(ceil_div(branch_.batch * lanes, int64_t(kTraceThreads)));
  add_traces_kernel<T><<<blocks, kTraceThreads, 0, context.stream>>>(traces_, sums, branch_.batch, lanes, value_);
  return cudaGetLastError();
}

template class LayeredTraces<float>;
template class LayeredTraces<double>;

}  // namespace irf::cuda
