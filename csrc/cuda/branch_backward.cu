// The op `branch_backward` (docs/mathematics.md, 4), layer by layer: a forward walk that keeps a_i and h_i, the
// tangents and cotangents of every pair, the ordinary backward walk, and the parameter gradients from what they left.
// All intermediates are rows in the workspace. Pairs share every launch but those of the cotangents: there they take
// turns, so that what they add to the ordinary backward is summed in order.
#include "cuda/forward.h"
#include "cuda/linearized.cuh"
#include "cuda/pack_weights.h"
#include "cuda/rows.cuh"
#include "cuda/weight_gradient.h"

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
  RowsLayout layout(int channels, int64_t items) const {
    return {items, branch_.batch, channels, static_cast<int>(branch_.pixels()), channel_pad(channels, precision_)};
  }
  int channels(int i) const {
    return i < stages_ ? branch_.stage[i].in_channels : branch_.stage[stages_ - 1].out_channels;
  }
  // Whether E_i is zero: then neither t_i nor what the cotangents add to s_i is needed.
  bool straight(int i) const { return piecewise_linear(branch_.stage[i].activation); }
  bool wants_backward(int i) const { return i > 0 || op_.grad_x || branch_.stage[0].beta; }

  StageProduct<T> transposed(int i, const T* a) const {
    return product_of(branch_, i, true, precision_, static_cast<const T*>(transposed_[i]), a, branch_.batch);
  }
  Linearized<T> linearized(int i) const {
    Linearized<T> epilogue{};
    epilogue.a = kept_[i].a ? kept_[i].a : kept_[i].h;  // the identity
    epilogue.activation = branch_.stage[i].activation;
    epilogue.beta = branch_.stage[i].beta;
    epilogue.pitch = channel_pad(channels(i), precision_);
    epilogue.rows = rows_;
    return epilogue;
  }
  // Where the terms of the slope of stage i go: first those of the ordinary backward, then pair by pair.
  T* slope_terms(int i, int turn) const {
    const WeightGradient<T>& gradient = gradients_[i];
    return branch_.stage[i].beta ? terms_[i] + turn * gradient.slope_term_count / (op_.pairs + 1) : nullptr;
  }

  const StageRows<T>* keep(Carver& carver) {
    for (int i = 0; i < stages_; ++i) {
      const int64_t size = layout(channels(i), branch_.batch).row_elements();
      if (branch_.stage[i].activation != Activation::kIdentity) kept_[i].a = carver.take<T>(size);
      kept_[i].h = carver.take<T>(size);
    }
    return kept_.data();
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
  const int64_t rows_, pair_items_;       // rows of the batch; items of all pairs
  std::vector<T*> forward_, transposed_;  // packed weights
  std::vector<StageRows<T>> kept_;        // [L] a_i and h_i
  std::vector<T*> t_, p_;                 // [L] tangents t_i and D_i t_i of all pairs
  std::vector<T*> r_;                     // [L + 1] cotangents of all pairs; r_0 serves nobody
  std::vector<T*> s_;                     // [L + 1] ordinary backward; before, what cotangents add to it
  std::vector<T*> terms_;                 // [L]
  std::vector<WeightGradient<T>> gradients_;
  const LayeredForward<T> walk_;
  const LayeredForwardScratch<T> scratch_;
};

template <class T>
BackwardPass<T>::BackwardPass(const Branch<T>& branch, const BranchBackwardOperands<T>& op, const Context& context,
                              Carver& carver)
    : branch_(branch),
      op_(op),
      context_(context),
      precision_(context.precision),
      stages_(branch.stages),
      rows_(branch.batch * branch.pixels()),
      pair_items_(op.pairs * branch.batch),
      forward_(carve_packed(branch, Form::kForward, precision_, carver)),
      transposed_(carve_packed(branch, Form::kTransposed, precision_, carver)),
      kept_(stages_),
      t_(stages_),
      p_(stages_),
      r_(stages_ + 1),
      s_(stages_ + 1),
      terms_(stages_),
      gradients_(stages_),
      walk_{branch, forward_.data(), op.x, keep(carver), nullptr, nullptr},
      scratch_(walk_, precision_, carver) {
  const bool pairs = op.pairs > 0;
  for (int i = 0; i <= stages_; ++i) {
    const int64_t size = layout(channels(i), branch.batch).row_elements(), all_pairs = size * op.pairs;
    if (i > 0 || op.grad_x) s_[i] = carver.take<T>(size);
    if (i > 0 && pairs) r_[i] = carver.take<T>(all_pairs);
    if (i == stages_) break;
    if (pairs) p_[i] = carver.take<T>(all_pairs);
    if (pairs && !straight(i)) t_[i] = carver.take<T>(all_pairs);
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
    gradient.pair[0] = {s_[i + 1], kept_[i].h, rows_};
    if (pairs) gradient.pair[1] = {r_[i + 1], p_[i], rows_ * op.pairs};
    if (stage.beta) {
      const StageProduct<T> product = transposed(i, nullptr);
      const int tiles = ceil_div(product.columns, product_columns(product, precision_, context.card));
      gradient.slope_term_count = (op.pairs + 1) * tiles * rows_;
      gradient.slope_terms = terms_[i] = carver.take<T>(gradient.slope_term_count);
    }
    gradient.splits = weight_gradient_splits(gradient, context.card);
    gradient.partial = carver.take<T>(gradient.splits * gradient.partial_size());
  }
}

template <class T>
cudaError_t BackwardPass<T>::forward() const {
  cudaError_t error = pack_weights(branch_, Form::kForward, precision_, forward_.data(), context_.stream);
  if (error == cudaSuccess)
    error = pack_weights(branch_, Form::kTransposed, precision_, transposed_.data(), context_.stream);
  return error == cudaSuccess ? layered_forward(walk_, scratch_, context_) : error;
}

// t_0 is the probe; fills t and p.
template <class T>
cudaError_t BackwardPass<T>::tangents() const {
  if (op_.pairs == 0) return cudaSuccess;
  auto epilogue = [&](int i) {
    Linearized<T> multiply = linearized(i);
    multiply.value = t_[i];
    multiply.scaled = p_[i];
    return multiply;
  };
  const RowsLayout input = layout(channels(0), pair_items_);
  cudaError_t error = to_rows<T>(input, Events<T>{op_.tangents, input.size()}, epilogue(0), context_.stream);
  for (int i = 0; i + 1 < stages_ && error == cudaSuccess; ++i)
    error = stage_product(product_of(branch_, i, false, precision_, static_cast<const T*>(forward_[i]),
                                     static_cast<const T*>(p_[i]), pair_items_),
                          epilogue(i + 1), precision_, context_.card, context_.stream);
  return error;
}

// Fills r and, where E_i is not zero, s_i with sum E_i t_i (A_i^T r_{i+1}).
template <class T>
cudaError_t BackwardPass<T>::cotangents() const {
  if (op_.pairs == 0) return cudaSuccess;
  const RowsLayout output = layout(channels(stages_), pair_items_);
  const WeightedEvents<T> scaled{op_.cotangents, op_.weight, output.size(), branch_.batch, static_cast<T>(op_.pairs)};
  cudaError_t error = to_rows<T>(output, scaled, StoreRows<T>{r_[stages_], output.pitch}, context_.stream);
  for (int pair = 0; pair < op_.pairs; ++pair)
    for (int i = stages_ - 1; i >= 0 && error == cudaSuccess; --i) {
      if (i == 0 && (straight(0) || !wants_backward(0))) break;
      const int64_t at = pair * layout(channels(i), branch_.batch).row_elements();
      Linearized<T> epilogue = linearized(i);
      if (i > 0) epilogue.scaled = r_[i] + at;
      if (!straight(i)) {
        epilogue.t = t_[i] + at;
        epilogue.second = s_[i];
        epilogue.add_second = pair > 0;
      }
      epilogue.terms = slope_terms(i, 1 + pair);
      const T* from = r_[i + 1] + pair * layout(channels(i + 1), branch_.batch).row_elements();
      error = stage_product(transposed(i, from), epilogue, precision_, context_.card, context_.stream);
    }
  return error;
}

// Fills s and the gradient of x.
template <class T>
cudaError_t BackwardPass<T>::backward() const {
  const RowsLayout output = layout(channels(stages_), branch_.batch);
  cudaError_t error = op_.grad ? to_rows<T>(output, Events<T>{op_.grad, output.size()},
                                            StoreRows<T>{s_[stages_], output.pitch}, context_.stream)
                               : cudaMemsetAsync(s_[stages_], 0, sizeof(T) * output.row_elements(), context_.stream);
  for (int i = stages_ - 1; i >= 0 && wants_backward(i) && error == cudaSuccess; --i) {
    Linearized<T> epilogue = linearized(i);
    epilogue.scaled = s_[i];
    epilogue.add_scaled = op_.pairs > 0 && !straight(i);
    epilogue.terms = slope_terms(i, 0);
    error = stage_product(transposed(i, s_[i + 1]), epilogue, precision_, context_.card, context_.stream);
  }
  if (error != cudaSuccess || !op_.grad_x) return error;
  const RowsLayout input = layout(channels(0), branch_.batch);
  const StoreEvents<T> store{op_.residual ? op_.grad : nullptr, op_.grad_x, input.size()};
  return from_rows<T>(input, Rows<T>{s_[0], input.pitch}, store, context_.stream);
}

template <class T>
cudaError_t BackwardPass<T>::parameters() const {
  for (const WeightGradient<T>& gradient : gradients_) {
    const cudaError_t error = weight_gradient(gradient, precision_, context_.stream);
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
