// x with x + g(x) = z by the fixed-point iteration x <- z - g(x), each sample stopped at its own certified error and
// then frozen (docs/mathematics.md, 5). All iterations are put on the stream; what is frozen costs empty blocks.
#include "cuda/activate.cuh"
#include "cuda/item_sums.cuh"
#include "cuda/pack_weights.h"
#include "cuda/rows.cuh"

namespace irf::cuda {
namespace {

// As in the CPU kernel: a sample without a better residual for so many steps has reached the floor of rounding (or the
// branch is no contraction) and will not converge.
constexpr int kPatience = 10;

// After the last product: the step z - x - g(x), and its square.
template <class T>
struct InverseStep {
  static constexpr int kUnroll = 4;

  const T* bias;
  int channels, pitch;
  const T *z, *x;
  T* step;
  ItemSums<T, 1> sums;

  __device__ void begin() {}

  template <int LANES>
  __device__ __forceinline__ void apply(const RowPlace& place, int column, bool inside, const Vector<T>& product) {
    T square[1] = {T(0)};
    if (inside) {
      const int64_t at = place.row * pitch + column;
      const Vector<T> target = load16_readonly(z + at), point = load16_readonly(x + at);
      Vector<T> result;
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) {
        const T b = bias && column + e < channels ? __ldg(bias + column + e) : T(0);
        result[e] = target[e] - point[e] - (product[e] + b);
        square[0] += result[e] * result[e];
      }
      store16(step + at, result);
    }
    sums.template add<LANES>(place, column, inside, square);
  }
};

// Rows of the iteration; what belongs to a sample is [B].
template <class T>
struct InverseState {
  T *z, *x, *step;
  T *best, *partials;
  int *waited, *active;
  T* h[2];
};

// x <- x + step where a sample still moves (x <- z at first), and the first activation of it.
template <class T>
__global__ void __launch_bounds__(kRowsThreads, 1)
    advance_kernel(const InverseState<T> state, const RowsLayout layout, bool first, Activate<T> activate) {
  const int thread = static_cast<int>(threadIdx.x), lanes = layout.pitch >= kWarp * kVector<T> ? kWarp : 4;
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
  if (!sums.gather(sample, square) || (iteration > 0 && !state.active[sample])) return;
  const T residual = sqrt(square[0]);
  const bool better = iteration == 0 ? residual < T(INFINITY) : residual < state.best[sample];
  const int waited = better ? 0 : iteration == 0 ? 1 : state.waited[sample] + 1;
  if (iteration == 0 || better) state.best[sample] = better ? residual : T(INFINITY);
  state.waited[sample] = waited;
  op.residual[sample] = residual;
  // `!(>)`: a NaN residual will not heal, so it stops too.
  const bool stop = !(residual > op.residual_limit) || waited == kPatience || iteration == op.max_iterations;
  state.active[sample] = stop ? 0 : 1;
  op.iterations[sample] = stop ? iteration : iteration + 1;
}

template <class T>
cudaError_t layered_inverse(const Branch<T>& branch, const ResidualInverseOperands<T>& op, const Context& context,
                            Carver& carver) {
  const Precision precision = context.precision;
  const int last = branch.stages - 1;
  const RowsLayout events = rows_of(branch, branch.stage[0].in_channels, precision);
  const std::vector<T*> weights = carve_packed(branch, Form::kForward, precision, carver);
  int64_t largest = 0;
  for (int i = 0; i < branch.stages; ++i)
    largest = std::max(largest, rows_of(branch, branch.stage[i].in_channels, precision).row_elements());
  InverseState<T> state;
  T** const rows[] = {&state.z, &state.x, &state.step};
  for (T** piece : rows) *piece = carver.take<T>(events.row_elements());
  for (T*& h : state.h) h = carver.take<T>(largest);
  std::vector<StageRows<T>> stages(branch.stages);
  for (int i = 0; i < branch.stages; ++i) stages[i].h = state.h[i % 2];
  StageProduct<T> product = product_of<T>(branch, last, false, precision, weights[last], stages[last].h, branch.batch);
  const int tile_columns = product_columns(product, precision, context.card);
  state.partials = carver.take<T>(ItemSums<T, 1>::size(product, tile_columns));
  state.best = carver.take<T>(branch.batch);
  state.waited = carver.take<int>(branch.batch);
  state.active = carver.take<int>(branch.batch);
  if (carver.counting() || branch.batch == 0) return cudaSuccess;

  InverseStep<T> step{};
  step.bias = branch.stage[last].bias;
  step.channels = events.channels;
  step.pitch = events.pitch;
  step.z = state.z;
  step.x = state.x;
  step.step = state.step;
  step.sums = ItemSums<T, 1>(state.partials, product, tile_columns);
  const int rows_at_once = kRowsThreads / (events.pitch >= kWarp * kVector<T> ? kWarp : 4);
  const unsigned blocks = static_cast<unsigned>(ceil_div(product.rows(), int64_t(rows_at_once)));
  cudaError_t error = pack_weights(branch, Form::kForward, precision, weights.data(), context.stream);
  if (error == cudaSuccess)
    error = to_rows<T>(events, Events<T>{op.z, events.size()}, StoreRows<T>{state.z, events.pitch}, context.stream);
  for (int64_t iteration = 0; iteration <= op.max_iterations && error == cudaSuccess; ++iteration) {
    product.active = iteration > 0 ? state.active : nullptr;
    advance_kernel<T><<<blocks, kRowsThreads, 0, context.stream>>>(state, events, iteration == 0,
                                                                   activation_of(branch, 0, precision, stages[0]));
    error = layered_hidden(branch, weights.data(), stages.data(), product.active, context);
    if (error == cudaSuccess) error = stage_product(product, step, precision, context.card, context.stream);
    if (error != cudaSuccess) return error;
    decide_kernel<T><<<step.sums.blocks(), kItemThreads, 0, context.stream>>>(state, step.sums, op, iteration);
  }
  if (error != cudaSuccess) return error;
  return from_rows<T>(events, Rows<T>{state.x, events.pitch}, StoreEvents<T>{nullptr, op.x, events.size()},
                      context.stream);
}

}  // namespace

template <class T>
size_t residual_inverse_workspace(const Branch<T>& branch, const ResidualInverseOperands<T>& op, const Card& card,
                                  Precision precision) {
  Carver carver(nullptr);
  layered_inverse(branch, op, Context{card, precision, nullptr, nullptr}, carver);
  return carver.used();
}

template <class T>
cudaError_t residual_inverse(const Branch<T>& branch, const ResidualInverseOperands<T>& op, const Context& context) {
  Carver carver(context.workspace);
  return layered_inverse(branch, op, context, carver);
}

#define IRF_INSTANTIATE(T)                                                                                        \
  template size_t residual_inverse_workspace<T>(const Branch<T>&, const ResidualInverseOperands<T>&, const Card&, \
                                                Precision);                                                       \
  template cudaError_t residual_inverse<T>(const Branch<T>&, const ResidualInverseOperands<T>&, const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
