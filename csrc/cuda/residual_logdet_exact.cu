// The op jacobian, which residual_logdet_exact is made of: row i of J is J^T applied to the unit vector e_i, so the
// Jacobian is one term of a chain with a probe for every row.
#include "cuda/engine.h"
#include "cuda/ops.h"

namespace irf::cuda {

template <class T>
Operation jacobian(const Branch<T>& branch, const JacobianOperands<T>& op, const Target& wanted) {
  const int rows = static_cast<int>(branch.in_size());
  const Target target = at_cheapest_precision(branch, {WalkKind::kTransposed, rows, 1, false, false}, wanted);
  Workspace workspace;
  LinearizedBranch<T> linearized(branch, op.x, nullptr, {}, target, workspace);
  Chain<T> chain = linearized.chain(true);
  chain.probes = rows;
  chain.series.terms = 1;
  chain.powers = op.jacobian;
  chain.probe_stride = branch.in_size();
  chain.sample_stride = branch.in_size() * branch.in_size();
  PowerChain<T> power(std::move(chain), target, workspace);
  return Operation(target, workspace, std::move(linearized), std::move(power));
}

template Operation jacobian(const Branch<float>&, const JacobianOperands<float>&, const Target&);
template Operation jacobian(const Branch<double>&, const JacobianOperands<double>&, const Target&);

}  // namespace irf::cuda
