// The op jacobian, which residual_logdet_exact is made of: row i of J is J^T applied to the unit vector e_i, so the
// Jacobian is one term of a chain with a probe for every row.
#include <algorithm>

#include "cuda/frozen.h"

namespace irf::cuda {
namespace {

// Layer by layer, as many rows of all samples go together as keep the scratch below this; a resident chain has none.
constexpr int64_t kScratchBytes = int64_t(256) << 20;

template <class T>
int rows_at_once(const Chain<T>& all, const Context& context) {
  Carver counter(nullptr);
  LayeredChainScratch<T>(all, context.precision, context.card, counter);
  const int64_t bytes_per_row = counter.used() / all.probes + 1;
  return static_cast<int>(std::clamp<int64_t>(kScratchBytes / bytes_per_row, 1, all.probes));
}

template <class T>
cudaError_t run_layered(const Chain<T>& all, int rows, const LayeredChainScratch<T>& scratch, const Context& context) {
  cudaError_t error = cudaSuccess;
  for (int first = 0; first < all.probes && error == cudaSuccess; first += rows) {
    Chain<T> some = all;
    some.probes = std::min(rows, all.probes - first);
    some.first_unit = first;
    some.powers += first * all.probe_stride;
    error = layered_chain(some, scratch, context);
  }
  return error;
}

template <class T>
cudaError_t run(const Branch<T>& branch, const JacobianOperands<T>& op, Context context, Carver& carver) {
  const int rows = static_cast<int>(branch.in_size());
  context = at_cheapest_precision(branch, {WalkKind::kTransposed, rows, 1, false, false}, context);
  const Frozen<T> frozen(branch, op.x, nullptr, true, {}, context, carver);
  Chain<T> chain = frozen.chain();
  chain.probes = rows;
  chain.series.terms = 1;
  chain.powers = op.jacobian;
  chain.probe_stride = branch.in_size();
  chain.sample_stride = branch.in_size() * branch.in_size();
  const ResidentPlan plan = plan_chain(chain, context);
  Chain<T> some = chain;
  std::optional<LayeredChainScratch<T>> scratch;
  if (!plan.resident) {
    some.probes = rows_at_once(chain, context);
    scratch.emplace(some, context.precision, context.card, carver);
  }
  if (carver.counting()) return cudaSuccess;
  const cudaError_t error = frozen.freeze();
  if (error != cudaSuccess) return error;
  return scratch ? run_layered(chain, some.probes, *scratch, context) : resident_chain(chain, plan, context);
}

}  // namespace

template <class T>
size_t jacobian_workspace(const Branch<T>& branch, const JacobianOperands<T>& op, const Card& card,
                          Precision precision) {
  Carver carver(nullptr);
  run(branch, op, Context{card, precision, nullptr, nullptr}, carver);
  return carver.used();
}

template <class T>
cudaError_t jacobian(const Branch<T>& branch, const JacobianOperands<T>& op, const Context& context) {
  Carver carver(context.workspace);
  return run(branch, op, context, carver);
}

#define IRF_INSTANTIATE(T)                                                                                  \
  template size_t jacobian_workspace(const Branch<T>&, const JacobianOperands<T>&, const Card&, Precision); \
  template cudaError_t jacobian(const Branch<T>&, const JacobianOperands<T>&, const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
