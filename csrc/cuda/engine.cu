#include <algorithm>
#include <utility>

#include "cuda/engine.h"
#include "cuda/layered/sums.h"
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

// The weights of a branch as the walk of a plan takes them.
template <class T>
PackedWeights<T> pack_for(const Branch<T>& branch, Form form, const ResidentPlan& plan, const Target& target,
                          Workspace& workspace) {
  return {branch, form, target.precision, plan.resident ? Packing::kValues : Packing::kOperands, workspace};
}

// Rows of D_i for every stage that is no identity.
template <class T>
std::vector<Buffer<T>> take_derivatives(const Branch<T>& branch, Precision precision, Workspace& workspace) {
  std::vector<Buffer<T>> derivatives(branch.stages);
  for (int i = 0; i < branch.stages; ++i)
    if (!branch.stage[i].identity())
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
      plan_(plan_for(forward_.branch, {WalkKind::kForward, 1, forward_.tangent.v ? 2 : 1, false, false}, target)),
      weights_(pack_for(forward_.branch, Form::kForward, plan_, target, workspace)) {
  forward_.weights = weights_.buffers();
  if (!plan_.resident) layered_.emplace(forward_, target, workspace);
}

template <class T>
cudaError_t ForwardWalk<T>::launch(const Context& context) const {
  if (forward_.branch.batch == 0) return cudaSuccess;
  const cudaError_t error = weights_.launch(context);
  if (error != cudaSuccess) return error;
  return layered_ ? layered_->launch(forward_, context) : resident_forward(forward_, plan_, context);
}

template <class T>
PowerChain<T>::PowerChain(Chain<T> chain, const Target& target, Workspace& workspace)
    : chain_(std::move(chain)),
      plan_(plan_for(chain_.branch, request_of(chain_), target)),
      weights_(
          pack_for(chain_.branch, chain_.transpose ? Form::kTransposed : Form::kForward, plan_, target, workspace)),
      probes_at_once_(chain_.probes) {
  chain_.weights = weights_.buffers();
  if (plan_.resident) return;
  probes_at_once_ = probes_at_once(chain_, target);
  layered_.emplace(part_of(chain_, 0, probes_at_once_), target, workspace);
  share_sums(chain_.branch, chain_.probes % probes_at_once_, target, workspace);  // of the last part
}

template <class T>
cudaError_t PowerChain<T>::launch(const Context& context) const {
  cudaError_t error = weights_.launch(context);
  if (error != cudaSuccess) return error;
  if (!layered_) return resident_chain(chain_, plan_, context);
  for (int first = 0; first < chain_.probes && error == cudaSuccess; first += probes_at_once_)
    error = layered_->launch(part_of(chain_, first, probes_at_once_), context);
  return error;
}

template <class T>
InverseWalk<T>::InverseWalk(Inverse<T> inverse, const Target& target, Workspace& workspace)
    : inverse_(std::move(inverse)),
      plan_(plan_for(inverse_.branch, kInverseWalk, target)),
      weights_(pack_for(inverse_.branch, Form::kForward, plan_, target, workspace)) {
  inverse_.weights = weights_.buffers();
  if (!plan_.resident)
    layered_.emplace(inverse_, target, workspace);
  else if (inverse_.operands.lipschitz > T(0))
    history_ = ResidentHistory<T>(plan_, workspace);
}

template <class T>
cudaError_t InverseWalk<T>::launch(const Context& context) const {
  const cudaError_t error = weights_.launch(context);
  if (error != cudaSuccess) return error;
  return layered_ ? layered_->launch(inverse_, context) : resident_inverse(inverse_, plan_, history_, context);
}

template <class T>
LinearizedBranch<T>::LinearizedBranch(const Branch<T>& branch, const T* x, T* z, const Tangent<T>& tangent,
                                      const Target& target, Workspace& workspace)
    : branch_(branch),
      derivatives_(take_derivatives(branch, target.precision, workspace)),
      walk_({branch, {}, x, derivatives_, z, nullptr, tangent}, target, workspace) {}

template <class T>
Chain<T> LinearizedBranch<T>::chain(bool transpose) const {
  Chain<T> chain{};
  chain.branch = branch_;
  chain.derivatives = derivatives_;
  chain.transpose = transpose;
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
