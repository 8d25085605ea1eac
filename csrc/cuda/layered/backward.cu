#include "cuda/kept.h"
#include "cuda/layered/activate.cuh"
#include "cuda/layered/backward.h"
#include "cuda/layered/forward.h"
#include "cuda/layered/launch_product.cuh"
#include "cuda/layered/linearized.cuh"
#include "cuda/layered/rows.cuh"
#include "cuda/layered/sample_gradients.h"
#include "cuda/layered/sums.h"

namespace irf::cuda {
namespace {

// The cotangents that enter at the top: y scaled per sample.
template <class T>
struct WeightedEvents {
  const T *y, *weight;
  int64_t size, samples;
  T pairs;
  __device__ T operator()(int64_t item, int64_t offset) const {
    return weight[item % samples] / pairs * y[item * size + offset];
  }
};

// How many terms of the slope a transposed product leaves: one per row and column tile.
template <class T>
int64_t slope_terms(const Branch<T>& branch, int i, int repeat, const Target& target) {
  if (repeat == 0) return 0;
  const StageProduct<T> product =
      product_of<T>(branch, i, true, target.precision, nullptr, nullptr, repeat * branch.batch);
  return product.rows() * ceil_div(product.columns, plan_of(product, target).epilogue_columns);
}

// One launch: the operands and scratch of LayeredBackward as pointers.
template <class T>
class BackwardLaunch {
 public:
  BackwardLaunch(const LayeredBackward<T>& described, const Context& context)
      : described_(described),
        branch_(described.branch),
        op_(described.op),
        context_(context),
        precision_(context.precision),
        stages_(branch_.stages),
        t_(context.memory.all(described.t)),
        p_(context.memory.all(described.p)),
        curved_(context.memory.all(described.curved)),
        r_(context.memory.all(described.r)),
        s_(context.memory.all(described.s)),
        terms_(context.memory.all(described.terms)),
        factors_(context.memory.all(described.factors)) {}

  cudaError_t run() const {
    using Step = cudaError_t (BackwardLaunch::*)() const;
    const Step steps[] = {&BackwardLaunch::forward, &BackwardLaunch::tangents, &BackwardLaunch::cotangents,
                          &BackwardLaunch::traces,  &BackwardLaunch::backward, &BackwardLaunch::parameters};
    for (const Step step : steps) {
      const cudaError_t error = (this->*step)();
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }

 private:
  RowsLayout layout(int i, int repeat = 1) const { return layout_of(branch_, i, precision_, repeat); }
  bool wants_backward(int i) const { return i > 0 || op_.grad_x || branch_.stage[0].beta || branch_.stage[0].factor; }

  StageProduct<T> transposed(int i, const T* from, int repeat = 1) const {
    const T* packed = context_.memory[described_.transposed.buffers()[i]];
    return product_of(branch_, i, true, precision_, packed, from, repeat * branch_.batch);
  }
  // What joins s_i besides A_i^T s_{i+1}.
  int addends(int i) const { return op_.pairs + described_.traces.sides(i); }
  StageRows<T*> stage(int i) const { return at(context_.memory, described_.stages[i]); }
  Linearized<T> linearized(int i, int repeat) const {
    return linearized_at(branch_, i, stage(i).a, precision_, repeat);
  }

  cudaError_t forward() const;
  cudaError_t tangents() const;
  cudaError_t cotangents() const;
  cudaError_t traces() const;
  cudaError_t backward() const;
  cudaError_t parameters() const;

  const LayeredBackward<T>& described_;
  const Branch<T>& branch_;
  const BranchBackwardOperands<T>& op_;
  const Context& context_;
  const Precision precision_;
  const int stages_;
  const std::vector<T*> t_, p_, curved_, r_, s_, terms_, factors_;
};

template <class T>
cudaError_t BackwardLaunch<T>::forward() const {
  cudaError_t error = described_.transposed.launch(context_);
  if (error == cudaSuccess && described_.forward) error = described_.forward->launch(context_);
  const RowsLayout input = layout(0);
  if (error == cudaSuccess)
    error = to_rows<T>(input, Events<T>{op_.x, input.size()}, activation_of(branch_, 0, precision_, stage(0)),
                       context_.stream);
  if (error != cudaSuccess || described_.recall) return error;
  return layered_hidden(branch_, described_.forward->buffers(), described_.stages, nullptr, context_);
}

// t_0 is the tangent of each pair; fills t and p.
template <class T>
cudaError_t BackwardLaunch<T>::tangents() const {
  if (op_.pairs == 0) return cudaSuccess;
  auto epilogue = [&](int i) {
    Linearized<T> multiply = linearized(i, op_.pairs);
    multiply.value = t_[i];
    multiply.scaled = p_[i];
    return multiply;
  };
  const RowsLayout input = layout(0, op_.pairs);
  cudaError_t error = to_rows<T>(input, Events<T>{op_.tangents, input.size()}, epilogue(0), context_.stream);
  for (int i = 0; i + 1 < stages_ && error == cudaSuccess && !described_.recall; ++i) {
    const T *packed = context_.memory[described_.forward->buffers()[i]], *from = p_[i];
    error = launch_product(product_of(branch_, i, false, precision_, packed, from, op_.pairs * branch_.batch),
                           epilogue(i + 1), context_);
  }
  return error;
}

// Fills r, and what s gets from the pairs.
template <class T>
cudaError_t BackwardLaunch<T>::cotangents() const {
  if (op_.pairs == 0) return cudaSuccess;
  const RowsLayout output = layout(stages_, op_.pairs);
  const WeightedEvents<T> scaled{op_.cotangents, op_.weight, output.size(), branch_.batch, static_cast<T>(op_.pairs)};
  cudaError_t error = to_rows<T>(output, scaled, StoreRows<T>{r_[stages_], output.pitch, precision_}, context_.stream);
  for (int i = stages_ - 1; i >= 0 && error == cudaSuccess; --i) {
    if (i == 0 && (!reads_tangent(branch_.stage[0]) || !wants_backward(0))) break;
    Linearized<T> epilogue = linearized(i, op_.pairs);
    epilogue.scaled = r_[i];
    epilogue.t = t_[i];
    epilogue.curved = curved_[i];
    if (factors_[i]) epilogue.factors = factors_[i] + layout(i).row_elements();
    if (terms_[i]) epilogue.terms = terms_[i] + slope_terms(branch_, i, 1, context_);
    error = launch_product(transposed(i, r_[i + 1], op_.pairs), epilogue, context_);
  }
  return error;
}

// Behind what the pairs left for s, the factors and the slopes.
template <class T>
cudaError_t BackwardLaunch<T>::traces() const {
  typename TraceGradients<T>::Places places;
  for (int i = 0; i < stages_; ++i) {
    const int64_t size = layout(i).row_elements(), before = slope_terms(branch_, i, 1, context_);
    places.a.push_back(stage(i).a);
    places.curved.push_back(curved_[i] ? curved_[i] + op_.pairs * size : nullptr);
    places.factors.push_back(factors_[i] ? factors_[i] + (1 + op_.pairs) * size : nullptr);
    places.terms.push_back(terms_[i] ? terms_[i] + before + slope_terms(branch_, i, op_.pairs, context_) : nullptr);
  }
  return described_.traces.launch(places, context_);
}

// Fills s and the gradient of x.
template <class T>
cudaError_t BackwardLaunch<T>::backward() const {
  const RowsLayout output = layout(stages_), input = layout(0);
  cudaError_t error = op_.grad
                          ? to_rows<T>(output, Events<T>{op_.grad, output.size()},
                                       StoreRows<T>{s_[stages_], output.pitch, precision_}, context_.stream)
                          : cudaMemsetAsync(s_[stages_], 0, sizeof(T) * operand_size(output.row_elements(), precision_),
                                            context_.stream);
  for (int i = stages_ - 1; i >= 0 && wants_backward(i) && error == cudaSuccess; --i) {
    Linearized<T> epilogue = linearized(i, 1);
    epilogue.scaled = s_[i];
    if (i == 0) epilogue.precision = Precision::kFull;  // the gradient of x
    epilogue.terms = terms_[i];
    epilogue.factors = factors_[i];
    epilogue.added = curved_[i];
    if (factors_[i] && op_.pairs > 0) epilogue.added_factors = factors_[i] + layout(i).row_elements();
    epilogue.addends = addends(i);
    error = launch_product(transposed(i, s_[i + 1]), epilogue, context_);
  }
  if (error != cudaSuccess || !op_.grad_x) return error;
  const StoreEvents<T> store{op_.residual ? op_.grad : nullptr, op_.grad_x, input.size()};
  return from_rows<T>(input, LoadRows<T>{s_[0], input.pitch}, store, context_.stream);
}

template <class T>
cudaError_t BackwardLaunch<T>::parameters() const {
  std::vector<WeightGradient<T>> gradients = described_.gradients;
  for (int i = 0; i < stages_; ++i) {
    WeightGradient<T>& gradient = gradients[i];
    gradient.pair[0].left = s_[i + 1];
    gradient.pair[0].right = stage(i).h;
    gradient.pair[1].left = r_[i + 1];
    gradient.pair[1].right = p_[i];
    gradient.slope_terms = terms_[i];
    gradient.partial = context_.memory[described_.partials[i]];
    const cudaError_t error = weight_gradient(gradient, context_.stream);
    if (error != cudaSuccess) return error;
  }
  const cudaError_t error = gather_gradients(branch_, gradients.data(), op_.grad_parameters, context_.stream);
  if (error != cudaSuccess) return error;
  return sample_gradients(branch_, s_, factors_, precision_, op_.grad_parameters, context_.stream);
}

}  // namespace

template <class T>
LayeredBackward<T>::LayeredBackward(const Branch<T>& branch_, const BranchBackwardOperands<T>& op_,
                                    const Target& target, Workspace& workspace)
    : branch(branch_),
      op(op_),
      recall(op.kept && op.pairs <= 1 && kept_size(branch, target.precision) == op.kept_size),
      transposed(branch, Form::kTransposed, target.precision, Packing::kOperands, workspace),
      traces(branch, op, target, workspace),
      stages(branch.stages),
      t(branch.stages),
      p(branch.stages),
      curved(branch.stages),
      r(branch.stages + 1),
      s(branch.stages + 1),
      terms(branch.stages),
      factors(branch.stages),
      gradients(branch.stages),
      partials(branch.stages) {
  if (!recall) forward.emplace(branch, Form::kForward, target.precision, Packing::kOperands, workspace);
  take_rows(target.precision, workspace);
  take_gradients(target, workspace);
  share_sums(branch, op.pairs, target, workspace);
}

template <class T>
void LayeredBackward<T>::take_rows(Precision precision, Workspace& workspace) {
  const bool pairs = op.pairs > 0;
  const Kept<T> kept(branch, precision, const_cast<T*>(op.kept));  // only read
  for (int i = 0; i <= branch.stages; ++i) {
    const int64_t size = layout_of(branch, i, precision).row_elements(), operands = operand_size(size, precision);
    if (i > 0 || op.grad_x) s[i] = workspace.take<T>(i > 0 ? operands : size);
    if (i > 0 && pairs) r[i] = workspace.take<T>(operands * op.pairs);
    if (i == branch.stages) break;
    const Stage<T>& stage = branch.stage[i];
    const int addends = op.pairs + traces.sides(i);
    if (stage.factor) factors[i] = workspace.take<T>(size * (1 + addends));
    // Where E_i is zero, the cotangents add nothing to s_i.
    if (pairs && !stage.straight()) curved[i] = workspace.take<T>(size * addends);
    if (recall && i > 0) {
      stages[i] = {kept.stages[i].a, kept.stages[i].h, {}};
      if (pairs) t[i] = kept.stages[i].t, p[i] = kept.stages[i].scaled;
      continue;
    }
    if (!stage.identity()) stages[i].a = workspace.take<T>(size);
    stages[i].h = workspace.take<T>(operands);
    if (pairs) p[i] = workspace.take<T>(operands * op.pairs);
    t[i] = pairs && reads_tangent(stage) && !curved[i] ? workspace.take<T>(size * op.pairs) : curved[i];
  }
}

template <class T>
void LayeredBackward<T>::take_gradients(const Target& target, Workspace& workspace) {
  const int64_t rows = branch.batch * branch.pixels();
  for (int i = 0; i < branch.stages; ++i) {
    const Stage<T>& stage = branch.stage[i];
    WeightGradient<T>& gradient = gradients[i];
    gradient.out_channels = stage.out_channels;
    gradient.in_channels = stage.in_channels;
    gradient.kernel = stage.kernel;
    gradient.height = branch.dense() ? 1 : branch.height;
    gradient.width = branch.dense() ? 1 : branch.width;
    gradient.left_pitch = channel_pad(stage.out_channels, target.precision);
    gradient.right_pitch = channel_pad(stage.in_channels, target.precision);
    gradient.precision = target.precision;
    gradient.pair[0].rows = rows;
    gradient.pair[1].rows = rows * op.pairs;
    if (stage.beta) {
      gradient.slope_term_count = slope_terms(branch, i, 1, target) + slope_terms(branch, i, op.pairs, target);
      gradient.slope_term_count += traces.slope_terms(i);
      terms[i] = workspace.take<T>(gradient.slope_term_count);
    }
    gradient.splits = weight_gradient_splits(gradient, target.card);
    partials[i] = workspace.take<T>(gradient.splits * gradient.partial_size());
  }
}

template <class T>
cudaError_t LayeredBackward<T>::launch(const Context& context) const {
  return BackwardLaunch<T>(*this, context).run();
}

template struct LayeredBackward<float>;
template struct LayeredBackward<double>;

}  // namespace irf::cuda
