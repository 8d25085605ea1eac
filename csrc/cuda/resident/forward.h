// The forward walk x -> g(x) and its inverse as one launch: nothing leaves the chip between the stages, nor between the
// iterations of an inverse.
#pragma once

#include "cuda/device/context.h"
#include "cuda/forward.h"
#include "cuda/inverse.h"
#include "cuda/plan/plan.h"
#include "iresnet_fast/anderson.h"

namespace irf::cuda {

// `plan` is resident, made for kForward and one probe, two repeats with a tangent; weights are packed, rows are written
// for plan.precision.
template <class T>
cudaError_t resident_forward(const Forward<T>& forward, const ResidentPlan& plan, const Context& context);

// Device memory of an accelerated inverse: what each thread knows of its item, and the history of all items under way.
template <class T>
struct ResidentHistory {
  Buffer<AndersonState<T>> state;
  Buffer<T> vectors;

  ResidentHistory() = default;
  ResidentHistory(const ResidentPlan& plan, Workspace& workspace)
      : state(workspace.take<AndersonState<T>>(int64_t(plan.blocks) * plan.threads)),
        vectors(workspace.take<T>(int64_t(plan.blocks) * plan.items * 2 * kHistory * plan.pixels * plan.event_pitch)) {}
};

// `plan` is made for kInverse; weights as above; `history` is needed if operands.lipschitz is not 0.
template <class T>
cudaError_t resident_inverse(const Inverse<T>& inverse, const ResidentPlan& plan, const ResidentHistory<T>& history,
                             const Context& context);

}  // namespace irf::cuda
