// The op `branch`: g(x), or x + g(x).
#include "cuda/engine.h"
#include "cuda/ops.h"

namespace irf::cuda {

template <class T>
Operation branch(const Branch<T>& branch, const BranchOperands<T>& op, const Target& wanted) {
  const Target target = at_cheapest_precision(branch, kForwardWalk, wanted);
  Workspace workspace;
  T *z = op.residual ? op.g : nullptr, *g = op.residual ? nullptr : op.g;
  ForwardWalk<T> walk({branch, {}, op.x, {}, z, g, {}}, target, workspace);
  return Operation(target, workspace, std::move(walk));
}

template Operation branch(const Branch<float>&, const BranchOperands<float>&, const Target&);
template Operation branch(const Branch<double>&, const BranchOperands<double>&, const Target&);

}  // namespace irf::cuda
