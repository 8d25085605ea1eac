// The op `residual_inverse`: x with x + g(x) = z by the fixed-point iteration x <- z - g(x), accelerated, each sample
// stopped by its own residual, after which its x stays (docs/mathematics.md, 5).
#include "cuda/engine.h"
#include "cuda/ops.h"

namespace irf::cuda {

template <class T>
Operation residual_inverse(const Branch<T>& branch, const ResidualInverseOperands<T>& op, const Target& wanted) {
  const Target target = at_cheapest_precision(branch, kInverseWalk, wanted);
  Workspace workspace;
  InverseWalk<T> walk({branch, {}, op}, target, workspace);
  return Operation(target, workspace, std::move(walk));
}

template Operation residual_inverse(const Branch<float>&, const ResidualInverseOperands<float>&, const Target&);
template Operation residual_inverse(const Branch<double>&, const ResidualInverseOperands<double>&, const Target&);

}  // namespace irf::cuda
