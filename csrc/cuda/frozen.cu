#include "cuda/frozen.h"

namespace irf::cuda {

template <class T>
Frozen<T>::Frozen(const Branch<T>& branch, const T* x, T* z, bool transpose, const Context& context, Carver& carver)
    : branch_(branch), transpose_(transpose), context_(context), stages_(branch.stages) {
  const Precision precision = context.precision;
  forward_ = carve_packed(branch, Form::kForward, precision, carver);
  if (transpose) transposed_ = carve_packed(branch, Form::kTransposed, precision, carver);
  derivatives_ = carve_derivatives(branch, precision, carver);
  for (int i = 0; i < branch.stages; ++i) stages_[i].d = derivatives_[i];
  walk_ = {branch, forward_.data(), x, stages_.data(), z, nullptr};
  scratch_.emplace(walk_, precision, carver);
}

template <class T>
cudaError_t Frozen<T>::freeze() const {
  cudaError_t error = pack_weights(branch_, Form::kForward, context_.precision, forward_.data(), context_.stream);
  if (transpose_ && error == cudaSuccess)
    error = pack_weights(branch_, Form::kTransposed, context_.precision, transposed_.data(), context_.stream);
  return error == cudaSuccess ? layered_forward(walk_, *scratch_, context_) : error;
}

template <class T>
Chain<T> Frozen<T>::chain() const {
  Chain<T> chain{};
  chain.branch = branch_;
  chain.weights = transpose_ ? transposed_.data() : forward_.data();
  chain.derivatives = derivatives_.data();
  chain.transpose = transpose_;
  return chain;
}

template <class T>
ResidentPlan plan_chain(const Chain<T>& chain, const Context& context) {
  const WalkRequest request{chain.transpose ? WalkKind::kTransposed : WalkKind::kTangent, chain.probes, chain.terms,
                            chain.value != nullptr, chain.neumann != nullptr};
  return plan_walk(shape_of(chain.branch), request, context.precision, sizeof(T), context.card);
}

template <class T>
PlannedChain<T>::PlannedChain(const Chain<T>& chain, const Context& context, Carver& carver)
    : chain_(chain), context_(context), plan_(plan_chain(chain, context)) {
  if (!plan_.resident) scratch_.emplace(chain, context.precision, context.card, carver);
}

template <class T>
cudaError_t PlannedChain<T>::run() const {
  return scratch_ ? layered_chain(chain_, *scratch_, context_) : resident_chain(chain_, plan_, context_.stream);
}

#define IRF_INSTANTIATE(T)        \
  template class Frozen<T>;       \
  template class PlannedChain<T>; \
  template ResidentPlan plan_chain(const Chain<T>&, const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
