#include "cuda/kept.h"
#include "cuda/layered/launch_product.cuh"
#include "cuda/layered/linearized.cuh"
#include "cuda/layered/parameter_gradients.h"
#include "cuda/layered/sums.h"
#include "cuda/layered/trace_gradients.h"
#include "cuda/layered/trace_source.cuh"

namespace irf::cuda {
namespace {

constexpr int kSampleLanes = 16;  // threads that share the samples of one sum

// The sums over samples of rows, in the layout of an event. A block takes 32 neighbouring elements of a sample's rows.
template <class T>
__global__ void __launch_bounds__(kWarp* kSampleLanes)
    sum_samples_kernel(const RowsLayout layout, const T* rows, T* sums) {
  __shared__ T lane_sums[kSampleLanes][kWarp];
  const int x = static_cast<int>(threadIdx.x) % kWarp, lane = static_cast<int>(threadIdx.x) / kWarp;
  const int at = static_cast<int>(blockIdx.x) * kWarp + x, size = layout.pixels * layout.pitch;
  T sum = T(0);
  if (at < size) {
#pragma unroll 4
    for (int64_t sample = lane; sample < layout.samples; sample += kSampleLanes) sum += rows[sample * size + at];
  }
  lane_sums[lane][x] = sum;
  __syncthreads();
  const int channel = at % layout.pitch;
  if (lane > 0 || at >= size || channel >= layout.channels) return;
#pragma unroll
  for (int i = 1; i < kSampleLanes; ++i) sum += lane_sums[i][x];
  sums[int64_t(channel) * layout.pixels + at / layout.pitch] = sum;
}

}  // namespace

template <class T>
TraceGradients<T>::TraceGradients(const Branch<T>& branch, const BranchBackwardOperands<T>& op, const Target& target,
                                  Workspace& workspace)
    : branch_(branch),
      op_(op),
      maps_(branch, op.traces),
      forward_(maps_.branch(), Form::kForward, target.precision, Packing::kOperands, workspace),
      transposed_(maps_.branch(), Form::kTransposed, target.precision, Packing::kOperands, workspace),
      left_(op.traces.count),
      right_(op.traces.count),
      scaled_right_(op.traces.count),
      partials_(op.traces.count) {
  for (int i = 0; i < op.traces.count; ++i)
    for (const bool right : {false, true}) {
      const int at = right ? op.traces.trace[i].right : op.traces.trace[i].left;
      if (at < 0) continue;
      const Stage<T>& stage = branch.stage[at];
      // A D that depends neither on a_i nor on a factor has no gradient to pass on.
      if (!reads_tangent(stage) || (at == 0 && !op.grad_x && !stage.beta && !stage.factor)) continue;
      Side side{i, at, right, 0};
      if (stage.beta) side.slope_terms = slope_terms_of(side, target);
      sides_.push_back(side);
    }
  take(target, workspace);
}

template <class T>
void TraceGradients<T>::take(const Target& target, Workspace& workspace) {
  const Precision precision = target.precision;
  share_sums(maps_.branch(), 1, target, workspace);
  for (int i = 0; i < op_.traces.count; ++i) {
    const Trace<T>& trace = op_.traces.trace[i];
    const int64_t left = layout_of(branch_, trace.left, precision).row_elements();
    if (trace.right < 0) {
      left_[i] = workspace.take<T>(left);
      continue;
    }
    const int64_t right = operand_size(layout_of(branch_, trace.right, precision).row_elements(), precision);
    left_[i] = workspace.take<T>(operand_size(left, precision));
    right_[i] = workspace.take<T>(right);
    scaled_right_[i] = trace.right == trace.left || !find(i, false) ? left_[i] : workspace.take<T>(right);
    WeightGradient<T> gradient = map_gradient(i, precision);
    gradient.splits = weight_gradient_splits(gradient, target.card);
    partials_[i] = workspace.take<T>(gradient.splits * gradient.partial_size());
  }
}

template <class T>
const typename TraceGradients<T>::Side* TraceGradients<T>::find(int trace, bool right) const {
  for (const Side& side : sides_)
    if (side.trace == trace && side.right == right) return &side;
  return nullptr;
}

template <class T>
int TraceGradients<T>::sides(int stage) const {
  int count = 0;
  for (const Side& side : sides_) count += side.stage == stage;
  return count;
}

template <class T>
int64_t TraceGradients<T>::slope_terms(int stage) const {
  int64_t count = 0;
  for (const Side& side : sides_)
    if (side.stage == stage) count += side.slope_terms;
  return count;
}

// One per row and tile of columns of what brings the gradient.
template <class T>
int64_t TraceGradients<T>::slope_terms_of(const Side& side, const Target& target) const {
  const RowsLayout rows = layout_of(branch_, side.stage, target.precision);
  int tiles = rows.pitch / kVector<T>;
  if (op_.traces.trace[side.trace].right >= 0) {
    const StageProduct<T> product =
        product_of<T>(maps_.branch(), maps_[side.trace], side.right, target.precision, nullptr, nullptr, branch_.batch);
    tiles = ceil_div(product.columns, plan_of(product, target).epilogue_columns);
  }
  return rows.items * rows.pixels * tiles;
}

template <class T>
WeightGradient<T> TraceGradients<T>::map_gradient(int trace, Precision precision) const {
  const Branch<T> maps = maps_.branch();
  const Stage<T>& map = maps.stage[maps_[trace]];
  WeightGradient<T> gradient{};
  gradient.out_channels = map.out_channels;
  gradient.in_channels = map.in_channels;
  gradient.kernel = map.kernel;
  gradient.height = branch_.dense() ? 1 : branch_.height;
  gradient.width = branch_.dense() ? 1 : branch_.width;
  gradient.left_pitch = channel_pad(map.out_channels, precision);
  gradient.right_pitch = channel_pad(map.in_channels, precision);
  gradient.precision = precision;
  gradient.pair[0].rows = branch_.batch * branch_.pixels();
  return gradient;
}

// Fills the operands of a trace, and what its sides pass on.
template <class T>
cudaError_t TraceGradients<T>::by_derivatives(int i, Places& places, const Context& context) const {
  const Memory& memory = context.memory;
  const Trace<T>& trace = op_.traces.trace[i];
  const bool alone = trace.right < 0;
  const TraceSource<T> weight{nullptr, op_.weight, op_.traces, i}, ones{nullptr, nullptr, op_.traces, i};
  const auto derivative = [&](int stage, const TraceSource<T>& source, const Buffer<T>& to) {
    Linearized<T> times = linearized_at(branch_, stage, places.a[stage], context.precision);
    times.scaled = memory[to];
    if (alone) times.precision = Precision::kFull;
    return to_rows<T>(layout_of(branch_, stage, context.precision), source, times, context.stream);
  };
  cudaError_t error = derivative(trace.left, weight, left_[i]);
  if (error == cudaSuccess && !alone) error = derivative(trace.right, ones, right_[i]);
  if (error == cudaSuccess && !alone && find(i, false) && trace.right != trace.left)
    error = derivative(trace.right, weight, scaled_right_[i]);
  for (const bool right : {false, true}) {
    const Side* side = find(i, right);
    if (!side || error != cudaSuccess) continue;
    const int stage = side->stage;
    const RowsLayout rows = layout_of(branch_, stage, context.precision);
    Linearized<T> join = linearized_at(branch_, stage, places.a[stage], context.precision);
    join.by_derivative = true;
    // Each side takes the next place of its stage.
    const auto next = [](T*& place, int64_t size) {
      T* const mine = place;
      if (place) place += size;
      return mine;
    };
    join.curved = next(places.curved[stage], rows.row_elements());
    join.factors = next(places.factors[stage], rows.row_elements());
    join.terms = next(places.terms[stage], side->slope_terms);
    if (alone) {
      error = to_rows<T>(rows, TraceSource<T>{trace.map, op_.weight, op_.traces, i}, join, context.stream);
      continue;
    }
    const int map = maps_[i];
    const T *packed = memory[(right ? transposed_ : forward_).buffers()[map]],
            *from = memory[right ? left_[i] : scaled_right_[i]];
    error = launch_product(product_of(maps_.branch(), map, right, context.precision, packed, from, branch_.batch), join,
                           context);
  }
  return error;
}

template <class T>
cudaError_t TraceGradients<T>::by_map(int i, T* result, const Context& context) const {
  const Trace<T>& trace = op_.traces.trace[i];
  const T* left = context.memory[left_[i]];
  if (trace.right < 0) {
    const RowsLayout rows = layout_of(branch_, trace.left, context.precision);
    const unsigned blocks = static_cast<unsigned>(ceil_div(rows.pixels * rows.pitch, kWarp));
    sum_samples_kernel<T><<<blocks, kWarp * kSampleLanes, 0, context.stream>>>(rows, left, result);
    return cudaGetLastError();
  }
  WeightGradient<T> gradient = map_gradient(i, context.precision);
  gradient.pair[0].left = left;
  gradient.pair[0].right = context.memory[right_[i]];
  gradient.splits = weight_gradient_splits(gradient, context.card);
  gradient.partial = context.memory[partials_[i]];
  const cudaError_t error = weight_gradient(gradient, context.stream);
  return error == cudaSuccess ? gather_gradient(gradient, result, context.stream) : error;
}

template <class T>
cudaError_t TraceGradients<T>::launch(Places places, const Context& context) const {
  if (op_.traces.count == 0 || branch_.batch == 0) return cudaSuccess;
  cudaError_t error = forward_.launch(context);
  if (error == cudaSuccess) error = transposed_.launch(context);
  T* result = parameter_gradients(branch_, op_.grad_parameters).maps;
  for (int i = 0; i < op_.traces.count && error == cudaSuccess; ++i) {
    error = by_derivatives(i, places, context);
    if (error == cudaSuccess) error = by_map(i, result, context);
    result += op_.traces.trace[i].size;
  }
  return error;
}

template class TraceGradients<float>;
template class TraceGradients<double>;

}  // namespace irf::cuda
