// The power chain of chain.h as one launch: every item's whole series on chip, with its own stop.
#pragma once

#include "cuda/chain.h"
#include "cuda/device/context.h"
#include "cuda/plan/plan.h"

namespace irf::cuda {

// `plan` is resident, made for this chain: kTransposed or kTangent, with `sums` if value is wanted, and `neumann`.
// Weights and derivatives are packed for plan.precision.
template <class T>
cudaError_t resident_chain(const Chain<T>& chain, const ResidentPlan& plan, const Context& context);

}  // namespace irf::cuda
