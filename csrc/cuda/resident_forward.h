// The forward walk x -> g(x) and its inverse as one launch: nothing leaves the chip between the stages, nor between the
// iterations of an inverse.
#pragma once

#include "cuda/layered_tangent.h"
#include "cuda/ops.h"
#include "cuda/plan.h"

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

// `plan` is made for kInverse; `weights` as above.
template <class T>
cudaError_t resident_inverse(const Branch<T>& branch, const T* const* weights,
                             const ResidualInverseOperands<T>& operands, const ResidentPlan& plan,
                             const Context& context);

}  // namespace irf::cuda
