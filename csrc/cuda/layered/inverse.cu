#include <algorithm>

#include "cuda/device/anderson.cuh"
#include "cuda/device/progress.h"
#include "cuda/layered/activate.cuh"
#include "cuda/layered/inverse.h"
#include "cuda/layered/item_sums.cuh"
#include "cuda/layered/rows.cuh"

namespace irf::cuda {
namespace {

// After the last product: the step z - x - g(x), and its square.
template <class T>
struct InverseStep {
  static constexpr int kUnroll = 2;

  const T* bias;
  int channels, pitch;
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
      Vector<T> result;
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) {
        const T b = bias && column + e < channels ? __ldg(bias + column + e) : T(0);
        result[e] = ahead.z[e] - ahead.x[e] - (product[e] + b);
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

template <class T>
RowsLayout event_rows(const Branch<T>& branch, Precision precision) {
  return rows_of(branch, branch.stage[0].in_channels, precision);
}

template <class T>
StageProduct<T> last_product(const Branch<T>& branch, const T* const* weights, const T* h, Precision precision) {
  const int last = branch.stages - 1;
  return product_of<T>(branch, last, false, precision, weights ? weights[last] : nullptr, h, branch.batch);
}

}  // namespace

template <class T>
LayeredInverseScratch<T>::LayeredInverseScratch(const Branch<T>& branch, bool accelerated, Precision precision,
                                                const Card& card, Carver& carver)
    : state{}, stages(branch.stages) {
  T** const rows[] = {&state.z, &state.x, &state.step};
  for (T** piece : rows) *piece = carver.take<T>(event_rows(branch, precision).row_elements());
  int64_t largest = 0;
  for (int i = 0; i < branch.stages; ++i)
    largest = std::max(largest, rows_of(branch, branch.stage[i].in_channels, precision).row_elements());
  largest = operand_size(largest, precision);
  T* const h[] = {carver.take<T>(largest), carver.take<T>(largest)};
  for (int i = 0; i < branch.stages; ++i) stages[i].h = h[i % 2];
  const StageProduct<T> product = last_product<T>(branch, nullptr, nullptr, precision);
  state.partials = carver.take<T>(ItemSums<T, 1>::size(product, product_columns(product, precision, card)));
  state.best = carver.take<T>(branch.batch);
  state.waited = carver.take<int>(branch.batch);
  state.active = carver.take<int>(branch.batch);
  state.stopped = carver.take<unsigned>(1);
  if (!accelerated) return;
  state.anderson = carver.take<AndersonState<T>>(branch.batch);
  state.undone = carver.take<int>(branch.batch);
  state.history = carver.take<T>(2 * kHistory * event_rows(branch, precision).row_elements());
}

template <class T>
cudaError_t layered_inverse(const Branch<T>& branch, const T* const* weights,
                            const ResidualInverseOperands<T>& operands, const LayeredInverseScratch<T>& scratch,
                            const Context& context) {
  if (branch.batch == 0) return cudaSuccess;
  const Precision precision = context.precision;
  const RowsLayout events = event_rows(branch, precision);
  ResidualInverseOperands<T> op = operands;
  if (!context.progress) op.max_iterations = std::min(op.max_iterations, op.captured_iterations);
  InverseState<T> state = scratch.state;
  state.stopped = watched(state.stopped, op.max_iterations, context);
  const Activate<T> activate = activation_of(branch, 0, precision, scratch.stages[0]);
  StageProduct<T> product = last_product<T>(branch, weights, scratch.stages.back().h, precision);
  InverseStep<T> step{};
  step.bias = branch.stage[branch.stages - 1].bias;
  step.channels = events.channels;
  step.pitch = events.pitch;
  step.z = state.z;
  step.x = state.x;
  step.step = state.step;
  step.sums = ItemSums<T, 1>(state.partials, product, product_columns(product, precision, context.card));
  const unsigned blocks = static_cast<unsigned>(ceil_div(product.rows(), int64_t(kRowsThreads / row_lanes(events))));

  cudaError_t error = to_rows<T>(events, Events<T>{op.z, events.size()},
                                 StoreRows<T>{state.z, events.pitch, Precision::kFull}, context.stream);
  if (error != cudaSuccess) return error;
  const auto iterate = [&](int64_t iteration) {
    product.active = iteration > 0 ? state.active : nullptr;
    advance_kernel<T><<<blocks, kRowsThreads, 0, context.stream>>>(state, events, iteration == 0, activate);
    cudaError_t failed = layered_hidden(branch, weights, scratch.stages.data(), product.active, context);
    if (failed == cudaSuccess) failed = stage_product(product, step, precision, context.card, context.stream);
    if (failed == cudaSuccess)
      decide_kernel<T><<<step.sums.blocks(), kItemThreads, 0, context.stream>>>(state, step.sums, op, iteration);
    if (failed == cudaSuccess && state.anderson)
      accelerate_kernel<T>
          <<<static_cast<unsigned>(branch.batch), kItemThreads, 0, context.stream>>>(state, events, iteration);
    return failed;
  };
  error = in_pieces(op.max_iterations, branch.batch, state.stopped, context, iterate);
  if (error != cudaSuccess) return error;
  return from_rows<T>(events, Rows<T>{state.x, events.pitch}, StoreEvents<T>{nullptr, op.x, events.size()},
                      context.stream);
}

#define IRF_INSTANTIATE(T)                                                                                   \
  template struct LayeredInverseScratch<T>;                                                                  \
  template cudaError_t layered_inverse(const Branch<T>&, const T* const*, const ResidualInverseOperands<T>&, \
                                       const LayeredInverseScratch<T>&, const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
