#include "cuda/planned.h"

namespace irf::cuda {

template <class T>
PlannedForward<T>::PlannedForward(const Branch<T>& branch, const T* const* weights, const T* x,
                                  const std::vector<T*>& derivatives, T* z, T* g, const Tangent<T>& tangent,
                                  const Context& context, Carver& carver)
    : resident_{branch, weights, x, derivatives.empty() ? nullptr : derivatives.data(), z, g, tangent},
      context_(context),
      plan_(plan_walk(shape_of(branch), {WalkKind::kForward, 1, tangent.v ? 2 : 1, false, false}, context.precision,
                      sizeof(T), context.card)),
      stages_(derivatives.size()) {
  if (plan_.resident) return;
  for (size_t i = 0; i < derivatives.size(); ++i) stages_[i].d = derivatives[i];
  for (int i = 1; i < branch.stages && tangent.v; ++i) {
    stages_[i].a = tangent.kept[i].a;
    stages_[i].h = tangent.kept[i].h;
  }
  layered_ = {branch, weights, x, stages_.empty() ? nullptr : stages_.data(), z, g};
  scratch_.emplace(layered_, context.precision, carver);
  if (tangent.v)
    tangent_entry_ =
        carver.take<T>(branch.batch * branch.pixels() * channel_pad(branch.stage[0].in_channels, context.precision));
}

template <class T>
cudaError_t PlannedForward<T>::run() const {
  if (resident_.branch.batch == 0) return cudaSuccess;
  if (!scratch_) return resident_forward(resident_, plan_, context_);
  const cudaError_t error = layered_forward(layered_, *scratch_, context_);
  if (!resident_.tangent.v || error != cudaSuccess) return error;
  return layered_tangent(resident_.branch, resident_.weights, resident_.derivatives, resident_.tangent, tangent_entry_,
                         context_);
}

template <class T>
ResidentPlan plan_chain(const Chain<T>& chain, const Context& context) {
  const WalkRequest request{chain.transpose ? WalkKind::kTransposed : WalkKind::kTangent, chain.probes,
                            chain.series.terms, chain.series.value != nullptr, chain.series.neumann != nullptr};
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
