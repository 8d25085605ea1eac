// The op `branch_backward` (docs/mathematics.md, 4), layer by layer: a forward walk that keeps a_i and h_i, the
// tangents and cotangents of every pair, the ordinary backward walk, and the parameter gradients from what they left.
// All intermediates are rows in the workspace, and all pairs share every launch. What residual_logdet kept (kept.h) is
// neither walked nor written again.
#include "cuda/device/pack_weights.h"
#include "cuda/kept.h"
#include "cuda/layered/activate.cuh"
#include "cuda/layered/linearized.cuh"
#include "cuda/layered/rows.cuh"
#include "cuda/layered/weight_gradient.h"
#include "cuda/plan/plan.h"

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

// Every product runs forward, backward and as a sum over rows, on the samples and on every pair of them: which
// precision is cheapest can be told from one walk over them all.
template <class T>
Context at_cheapest_precision(const Branch<T>& branch, const BranchBackwardOperands<T>& op, Context context) {
  const WalkRequest request{WalkKind::kForward, 1 + op.pairs, 1, false, false};
  context.precision = cheapest_layered_precision(shape_of(branch), request, context.precision, sizeof(T), context.card);
  return context;
}

// The precision whose rows were kept, if it is at least as exact as `wanted`, else that of `context`. Their number
// tells (kept_size).
template <class T>
Context at_kept_precision(const Branch<T>& branch, const BranchBackwardOperands<T>& op, Context context,
                          Precision wanted) {
  if (!op.kept) return context;
  for (const Precision precision : {Precision::kFull, Precision::kTf32, Precision::kBf16})
    if (precision <= wanted && kept_size(branch, precision) == op.kept_size) context.precision = precision;
  return context;
}

template <class T>
class BackwardPass {
 public:
  BackwardPass(const Branch<T>& branch, const BranchBackwardOperands<T>& op, const Context& context, Carver& carver);

  cudaError_t run() const {
    using Step = cudaError_t (BackwardPass::*)() const;
    const Step steps[] = {&BackwardPass::forward, &BackwardPass::tangents, &BackwardPass::cotangents,
                          &BackwardPass::backward, &BackwardPass::parameters};
    for (const Step step : steps) {
      const cudaError_t error = (this->*step)();
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }

 private:
  // Rows of a_i, once a sample or once a pair of a sample.
  RowsLayout layout(int i, int repeat = 1) const { return rows_of(branch_, channels(i), precision_, repeat); }
  int channels(int i) const {
    return i < stages_ ? branch_.stage[i].in_channels : branch_.stage[stages_ - 1].out_channels;
  }
  // Whether E_i is zero: then neither t_i nor what the cotangents add to s_i is needed.
  bool straight(int i) const { return piecewise_linear(branch_.stage[i].activation); }
  bool wants_backward(int i) const { return i > 0 || op_.grad_x || branch_.stage[0].beta; }

  StageProduct<T> transposed(int i, const T* from, int repeat = 1) const {
    const T* packed = transposed_[i];
    return product_of(branch_, i, true, precision_, packed, from, repeat * branch_.batch);
  }
  Linearized<T> linearized(int i, int repeat) const {
    Linearized<T> epilogue{};
    epilogue.a = kept_[i].a;
    epilogue.activation = branch_.stage[i].activation;
    epilogue.beta = branch_.stage[i].beta;
    epilogue.pitch = channel_pad(channels(i), precision_);
    epilogue.rows = repeat * rows_;
    epilogue.precision = precision_;
    return epilogue;
  }
  // How many terms of the slope a transposed product leaves: one per row and column tile.
  int64_t slope_terms(int i, int repeat) const {
    if (repeat == 0) return 0;
    const StageProduct<T> product = transposed(i, nullptr, repeat);
    return product.rows() * ceil_div(product.columns, product_columns(product, precision_, context_.card));
  }

  cudaError_t forward() const;
  cudaError_t tangents() const;
  cudaError_t cotangents() const;
  cudaError_t backward() const;
  cudaError_t parameters() const;

  const Branch<T> branch_;
  const BranchBackwardOperands<T> op_;
  const Context context_;
  const Precision precision_;
  const int stages_;
  const int64_t rows_;                    // of the batch
  const bool recall_;                     // a_i, h_i, t_i and D_i t_i of the inner stages were kept
  std::vector<T*> forward_, transposed_;  // packed weights
  std::vector<StageRows<T>> kept_;        // [L] a_i, of an identity null, and h_i
  std::vector<T*> t_, p_;                 // [L] tangents t_i and D_i t_i of all pairs
  std::vector<T*> curved_;  // [L] E_i t_i A_i^T r_{i+1} of all pairs, in the place of t_i where it is ours
  std::vector<T*> r_;       // [L + 1] cotangents of all pairs; r_0 serves nobody
  std::vector<T*> s_;       // [L + 1] ordinary backward
  std::vector<T*> terms_;   // [L] terms of the slope: of the ordinary backward, then of the pairs
  std::vector<WeightGradient<T>> gradients_;
};

template <class T>
BackwardPass<T>::BackwardPass(const Branch<T>& branch, const BranchBackwardOperands<T>& op, const Context& context,
                              Carver& carver)
    : branch_(branch),
      op_(op),
      context_(at_kept_precision(branch, op, at_cheapest_precision(branch, op, context), context.precision)),
      precision_(context_.precision),
      stages_(branch.stages),
      rows_(branch.batch * branch.pixels()),
      recall_(op.kept && op.pairs <= 1 && kept_size(branch, precision_) == op.kept_size),
      forward_(recall_ ? std::vector<T*>() : carve_packed(branch, Form::kForward, precision_, carver)),
      transposed_(carve_packed(branch, Form::kTransposed, precision_, carver)),
      kept_(stages_),
      t_(stages_),
      p_(stages_),
      curved_(stages_),
      r_(stages_ + 1),
      s_(stages_ + 1),
      terms_(stages_),
      gradients_(stages_) {
  const bool pairs = op.pairs > 0;
  const Kept<T> kept(branch, precision_, const_cast<T*>(op.kept));  // only read
  for (int i = 0; i <= stages_; ++i) {
    const int64_t size = layout(i).row_elements(), operands = operand_size(size, precision_);
    if (i > 0 || op.grad_x) s_[i] = carver.take<T>(i > 0 ? operands : size);
    if (i > 0 && pairs) r_[i] = carver.take<T>(operands * op.pairs);
    if (i == stages_) break;
    if (pairs && !straight(i)) curved_[i] = carver.take<T>(size * op.pairs);
    if (recall_ && i > 0) {
      kept_[i] = {kept.stages[i].a, kept.stages[i].h, nullptr, nullptr};
      if (pairs) t_[i] = kept.stages[i].t, p_[i] = kept.stages[i].scaled;
      continue;
    }
    if (branch.stage[i].activation != Activation::kIdentity) kept_[i].a = carver.take<T>(size);
    kept_[i].h = carver.take<T>(operands);
    if (pairs) p_[i] = carver.take<T>(operands * op.pairs);
    t_[i] = curved_[i];
  }
  for (int i = 0; i < stages_; ++i) {
    const Stage<T>& stage = branch.stage[i];
    WeightGradient<T>& gradient = gradients_[i];
    gradient.out_channels = stage.out_channels;
    gradient.in_channels = stage.in_channels;
    gradient.kernel = stage.kernel;
    gradient.height = branch.dense() ? 1 : branch.height;
    gradient.width = branch.dense() ? 1 : branch.width;
    gradient.left_pitch = channel_pad(stage.out_channels, precision_);
    gradient.right_pitch = channel_pad(stage.in_channels, precision_);
    gradient.precision = precision_;
    gradient.pair[0] = {s_[i + 1], kept_[i].h, rows_};
    if (pairs) gradient.pair[1] = {r_[i + 1], p_[i], rows_ * op.pairs};
    if (stage.beta) {
      gradient.slope_term_count = slope_terms(i, 1) + slope_terms(i, op.pairs);
      gradient.slope_terms = terms_[i] = carver.take<T>(gradient.slope_term_count);
    }
    gradient.splits = weight_gradient_splits(gradient, context.card);
    gradient.partial = carver.take<T>(gradient.splits * gradient.partial_size());
  }
}

template <class T>
cudaError_t BackwardPass<T>::forward() const {
  cudaError_t error = pack_weights(branch_, Form::kTransposed, precision_, transposed_.data(), context_.stream);
  if (error == cudaSuccess && !recall_)
    error = pack_weights(branch_, Form::kForward, precision_, forward_.data(), context_.stream);
  const RowsLayout input = layout(0);
  if (error == cudaSuccess)
    error = to_rows<T>(input, Events<T>{op_.x, input.size()}, activation_of(branch_, 0, precision_, kept_[0]),
                       context_.stream);
  if (error != cudaSuccess || recall_) return error;
  return layered_hidden(branch_, forward_.data(), kept_.data(), nullptr, context_);
}

// t_0 is the tangent of each pair; fills t and p.
template <class T>
cudaError_t BackwardPass<T>::tangents() const {
  if (op_.pairs == 0) return cudaSuccess;
  auto epilogue = [&](int i) {
    Linearized<T> multiply = linearized(i, op_.pairs);
    multiply.value = t_[i];
    multiply.scaled = p_[i];
    return multiply;
  };
  const RowsLayout input = layout(0, op_.pairs);
  cudaError_t error = to_rows<T>(input, Events<T>{op_.tangents, input.size()}, epilogue(0), context_.stream);
  for (int i = 0; i + 1 < stages_ && error == cudaSuccess && !recall_; ++i) {
    const T *packed = forward_[i], *from = p_[i];
    error = stage_product(product_of(branch_, i, false, precision_, packed, from, op_.pairs * branch_.batch),
                          epilogue(i + 1), precision_, context_.card, context_.stream);
  }
  return error;
}

// Fills r, and what s gets from the pairs.
template <class T>
cudaError_t BackwardPass<T>::cotangents() const {
  if (op_.pairs == 0) return cudaSuccess;
  const RowsLayout output = layout(stages_, op_.pairs);
  const WeightedEvents<T> scaled{op_.cotangents, op_.weight, output.size(), branch_.batch, static_cast<T>(op_.pairs)};
  cudaError_t error = to_rows<T>(output, scaled, StoreRows<T>{r_[stages_], output.pitch, precision_}, context_.stream);
  for (int i = stages_ - 1; i >= 0 && error == cudaSuccess; --i) {
    if (i == 0 && (straight(0) || !wants_backward(0))) break;
    Linearized<T> epilogue = linearized(i, op_.pairs);
    epilogue.scaled = r_[i];
    epilogue.t = t_[i];
    epilogue.curved = curved_[i];
    if (terms_[i]) epilogue.terms = terms_[i] + slope_terms(i, 1);
    error = stage_product(transposed(i, r_[i + 1], op_.pairs), epilogue, precision_, context_.card, context_.stream);
  }
  return error;
}

// Fills s and the gradient of x.
template <class T>
cudaError_t BackwardPass<T>::backward() const {
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
    if (curved_[i]) {
      epilogue.added = curved_[i];
      epilogue.addends = op_.pairs;
    }
    error = stage_product(transposed(i, s_[i + 1]), epilogue, precision_, context_.card, context_.stream);
  }
  if (error != cudaSuccess || !op_.grad_x) return error;
  const StoreEvents<T> store{op_.residual ? op_.grad : nullptr, op_.grad_x, input.size()};
  return from_rows<T>(input, Rows<T>{s_[0], input.pitch}, store, context_.stream);
}

template <class T>
cudaError_t BackwardPass<T>::parameters() const {
  for (const WeightGradient<T>& gradient : gradients_) {
    const cudaError_t error = weight_gradient(gradient, context_.stream);
    if (error != cudaSuccess) return error;
  }
  return gather_gradients(branch_, gradients_.data(), op_.grad_parameters, context_.stream);
}

}  // namespace

template <class T>
size_t branch_backward_workspace(const Branch<T>& branch, const BranchBackwardOperands<T>& op, const Card& card,
                                 Precision precision) {
  Carver carver(nullptr);
  BackwardPass<T>(branch, op, Context{card, precision, nullptr, nullptr}, carver);
  return carver.used();
}

template <class T>
cudaError_t branch_backward(const Branch<T>& branch, const BranchBackwardOperands<T>& op, const Context& context) {
  Carver carver(context.workspace);
  return BackwardPass<T>(branch, op, context, carver).run();
}

#define IRF_INSTANTIATE(T)                                                                                      \
  template size_t branch_backward_workspace<T>(const Branch<T>&, const BranchBackwardOperands<T>&, const Card&, \
                                               Precision);                                                      \
  template cudaError_t branch_backward<T>(const Branch<T>&, const BranchBackwardOperands<T>&, const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
