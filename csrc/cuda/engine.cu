#include <algorithm>
#include <utility>

#include "cuda/engine.h"
#include "cuda/resident/chain.h"

namespace irf::cuda {
namespace {

// Layer by layer, as many unit probes go together as keep the scratch below this; a resident chain has none.
constexpr int64_t kScratchBytes = int64_t(256) << 20;

template <class T>
ResidentPlan plan_for(const Branch<T>& branch, const WalkRequest& request, const Target& target) {
  return plan_walk(shape_of(branch), request, target.precision, sizeof(T), target.card);
}

template <class T>
WalkRequest request_of(const Chain<T>& chain) {
  return {chain.transpose ? WalkKind::kTransposed : WalkKind::kTangent, chain.probes, chain.series.terms,
          chain.series.value != nullptr, chain.series.neumann != nullptr};
}

template <class T>
int probes_at_once(const Chain<T>& chain, const Target& target) {
  if (chain.probe) return chain.probes;
  Workspace all;
  LayeredChain<T>(chain, target, all);
  const int64_t bytes_per_probe = all.bytes() / chain.probes + 1;
  return static_cast<int>(std::clamp<int64_t>(kScratchBytes / bytes_per_probe, 1, chain.probes));
}

// `probes` of the unit probes from number `first` on, or as many as there are.
template <class T>
Chain<T> part_of(const Chain<T>& chain, int first, int probes) {
  Chain<T> part = chain;
  part.probes = std::min(probes, chain.probes - first);
  part.first_unit += first;
  part.powers += first * chain.probe_stride;
  return part;
}

// Rows of D_i for every stage that is no identity.
template <class T>
std::vector<Buffer<T>> take_derivatives(const Branch<T>& branch, Precision precision, Workspace& workspace) {
  std::vector<Buffer<T>> derivatives(branch.stages);
  for (int i = 0; i < branch.stages; ++i)
    if (branch.stage[i].activation != Activation::kIdentity)
      derivatives[i] = workspace.take<T>(rows_size(branch, branch.stage[i].in_channels, precision));
  return derivatives;
}

}  // namespace

template <class T>
Target at_cheapest_precision(const Branch<T>& branch, const WalkRequest& request, const Target& target) {
  return {target.card, cheapest_precision(shape_of(branch), request, target.precision, sizeof(T), target.card)};
}

template <class T>
Target at_cheapest_layered_precision(const Branch<T>& branch, const WalkRequest& request, const Target& target) {
  return {target.card, cheapest_layered_precision(shape_of(branch), request, target.precision, sizeof(T), target.card)};
}

template <class T>
ForwardWalk<T>::ForwardWalk(Forward<T> forward, const Target& target, Workspace& workspace)
    : forward_(std::move(forward)),
      plan_(plan_for(forward_.branch, {WalkKind::kForward, 1, forward_.tangent.v ? 2 : 1, false, false}, target)) {
  if (!plan_.resident) layered_.emplace(forward_, target, workspace);
}

template <class T>
cudaError_t ForwardWalk<T>::launch(const Context& context) const {
  if (forward_.branch.batch == 0) return cudaSuccess;
  return layered_ ? layered_->launch(forward_, context) : resident_forward(forward_, plan_, context);
}

template <class T>
PowerChain<T>::PowerChain(Chain<T> chain, const Target& target, Workspace& workspace)
    : chain_(std::move(chain)),
      plan_(plan_for(chain_.branch, request_of(chain_), target)),
      probes_at_once_(chain_.probes) {
  if (plan_.resident) return;
  probes_at_once_ = probes_at_once(chain_, target);
  layered_.emplace(part_of(chain_, 0, probes_at_once_), target, workspace);
}

template <class T>
cudaError_t PowerChain<T>::launch(const Context& context) const {
  if (!layered_) return resident_chain(chain_, plan_, context);
  if (probes_at_once_ == chain_.probes) return layered_->launch(chain_, context);
  cudaError_t error = cudaSuccess;
  for (int first = 0; first < chain_.probes && error == cudaSuccess; first += probes_at_once_)
    error = layered_->launch(part_of(chain_, first, probes_at_once_), context);
  return error;
}

template <class T>
InverseWalk<T>::InverseWalk(Inverse<T> inverse, const Target& target, Workspace& workspace)
    : inverse_(std::move(inverse)), plan_(plan_for(inverse_.branch, kInverseWalk, target)) {
  if (!plan_.resident)
    layered_.emplace(inverse_, target, workspace);
  else if (inverse_.operands.lipschitz > T(0))
    history_ = ResidentHistory<T>(plan_, workspace);
}

template <class T>
cudaError_t InverseWalk<T>::launch(const Context& context) const {
  return layered_ ? layered_->launch(inverse_, context) : resident_inverse(inverse_, plan_, history_, context);
}

template <class T>
LinearizedBranch<T>::LinearizedBranch(const Branch<T>& branch, const T* x, T* z, bool transpose,
                                      const Tangent<T>& tangent, const Target& target, Workspace& workspace)
    : branch_(branch),
      forward_(branch, Form::kForward, target.precision, workspace),
      derivatives_(take_derivatives(branch, target.precision, workspace)),
      walk_({branch, forward_.buffers(), x, derivatives_, z, nullptr, tangent}, target, workspace) {
  if (transpose) transposed_.emplace(branch, Form::kTransposed, target.precision, workspace);
}

template <class T>
cudaError_t LinearizedBranch<T>::launch(const Context& context) const {
  cudaError_t error = forward_.launch(context);
  if (transposed_ && error == cudaSuccess) error = transposed_->launch(context);
  return error == cudaSuccess ? walk_.launch(context) : error;
}

template <class T>
Chain<T> LinearizedBranch<T>::chain() const {
  Chain<T> chain{};
  chain.branch = branch_;
  chain.weights = (transposed_ ? *transposed_ : forward_).buffers();
  chain.derivatives = derivatives_;
  chain.transpose = transposed_.has_value();
  return chain;
}

#define IRF_INSTANTIATE(T)                                                                            \
  template Target at_cheapest_precision(const Branch<T>&, const WalkRequest&, const Target&);         \
  template Target at_cheapest_layered_precision(const Branch<T>&, const WalkRequest&, const Target&); \
  template class ForwardWalk<T>;                                                                      \
  template class PowerChain<T>;                                                                       \
  template class InverseWalk<T>;                                                                      \
  template class LinearizedBranch<T>;
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
