// The forward walk x -> g(x) and its inverse as one launch: nothing leaves the chip between the stages, nor between the
// iterations of an inverse.
#pragma once

#include "cuda/device/workspace.h"
#include "cuda/layered/tangent.h"
#include "cuda/ops.h"
#include "cuda/plan/plan.h"
#include "iresnet_fast/anderson.h"

namespace irf::cuda {

template <class T>
struct ResidentForward {
  Branch<T> branch;
  const T* const* weights;  // [L] (host array): packed, the forward form
  const T* x;               // [B, d]
  T* const* derivatives;    // [L] (host array): rows of D_i or null; or null: none
  T* z;                     // [B, d] x + g(x), or null
  T* g;                     // [B, d'], or null
  Tangent<T> tangent;       // its v null: no tangent; else a_i, h_i of its kept rows are written too
};

// `plan` is resident, made for kForward and one probe, two repeats with a tangent; weights are packed, rows are written
// for plan.precision.
template <class T>
cudaError_t resident_forward(const ResidentForward<T>& forward, const ResidentPlan& plan, const Context& context);

// Device memory of an accelerated inverse: what each thread knows of its item, and the history of all items under way.
template <class T>
struct ResidentHistory {
  AndersonState<T>* state;
  T* vectors;

  ResidentHistory() = default;
  ResidentHistory(const ResidentPlan& plan, Carver& carver)
      : state(carver.take<AndersonState<T>>(int64_t(plan.blocks) * plan.threads)),
        vectors(carver.take<T>(int64_t(plan.blocks) * plan.items * 2 * kHistory * plan.pixels * plan.event_pitch)) {}
};

// `plan` is made for kInverse; `weights` as above; `history` is needed if operands.lipschitz is not 0.
template <class T>
cudaError_t resident_inverse(const Branch<T>& branch, const T* const* weights,
                             const ResidualInverseOperands<T>& operands, const ResidentPlan& plan,
                             const ResidentHistory<T>& history, const Context& context);

}  // namespace irf::cuda
