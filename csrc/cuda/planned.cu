#include "cuda/planned.h"

namespace irf::cuda {

template <class T>
PlannedForward<T>::PlannedForward(const Branch<T>& branch, const T* const* weights, const T* x,
                                  const std::vector<T*>& derivatives, T* z, T* g, const Context& context,
                                  Carver& carver)
    : resident_{branch, weights, x, derivatives.empty() ? nullptr : derivatives.data(), z, g},
      context_(context),
      plan_(plan_walk(shape_of(branch), kForwardWalk, context.precision, sizeof(T), context.card)),
      stages_(derivatives.size()) {
  if (plan_.resident) return;
  for (size_t i = 0; i < derivatives.size(); ++i) stages_[i].d = derivatives[i];
  layered_ = {branch, weights, x, stages_.empty() ? nullptr : stages_.data(), z, g};
  scratch_.emplace(layered_, context.precision, carver);
}

template <class T>
cudaError_t PlannedForward<T>::run() const {
  if (resident_.branch.batch == 0) return cudaSuccess;
  return scratch_ ? layered_forward(layered_, *scratch_, context_) : resident_forward(resident_, plan_, context_);
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
  return scratch_ ? layered_chain(chain_, *scratch_, context_) : resident_chain(chain_, plan_, context_);
}

#define IRF_INSTANTIATE(T)          \
  template class PlannedForward<T>; \
  template class PlannedChain<T>;   \
  template ResidentPlan plan_chain(const Chain<T>&, const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
