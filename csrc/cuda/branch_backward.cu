// The op `branch_backward`: the gradient of g and of <cotangent, J tangent>, layer by layer at every size.
#include "cuda/engine.h"
#include "cuda/layered/backward.h"
#include "cuda/ops.h"

namespace irf::cuda {
namespace {

// Every product runs forward, backward and as a sum over rows, on the samples and on every pair of them: which
// precision is cheapest can be told from one walk over them all.
template <class T>
WalkRequest request_of(const BranchBackwardOperands<T>& op) {
  return {WalkKind::kForward, 1 + op.pairs, 1, false, false};
}

// The precision whose rows were kept, if it is at least as exact as was wanted, else the cheapest. Their number tells
// (kept_size).
template <class T>
Target at_kept_precision(const Branch<T>& branch, const BranchBackwardOperands<T>& op, const Target& cheapest,
                         const Target& wanted) {
  if (!op.kept) return cheapest;
  for (const Precision precision : {Precision::kFull, Precision::kTf32, Precision::kBf16})
    if (precision <= wanted.precision && kept_size(branch, precision) == op.kept_size)
      return {cheapest.card, precision};
  return cheapest;
}

}  // namespace

template <class T>
Operation branch_backward(const Branch<T>& branch, const BranchBackwardOperands<T>& op, const Target& wanted) {
  const Target cheapest = at_cheapest_layered_precision(branch, request_of(op), wanted);
  const Target target = at_kept_precision(branch, op, cheapest, wanted);
  Workspace workspace;
  LayeredBackward<T> backward(branch, op, target, workspace);
  return Operation(target, workspace, std::move(backward));
}

template Operation branch_backward(const Branch<float>&, const BranchBackwardOperands<float>&, const Target&);
template Operation branch_backward(const Branch<double>&, const BranchBackwardOperands<double>&, const Target&);

}  // namespace irf::cuda
