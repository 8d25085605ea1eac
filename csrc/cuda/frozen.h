// A branch frozen at a batch of points, to run chains on: what residual_logdet, jacobian_powers and jacobian share.
#pragma once

#include <vector>

#include "cuda/device/pack_weights.h"
#include "cuda/planned.h"

namespace irf::cuda {

// `context` at the precision at which a chain and the forward walk that freezes its branch are cheapest together.
template <class T>
Context at_cheapest_precision(const Branch<T>& branch, const WalkRequest& chain, Context context);

// The derivatives D_i at x, and the packed weights of chains in one direction, all at the precision of `context`.
template <class T>
class Frozen {
 public:
  // z, [B, d], gets x + g(x); or null. `tangent` may be without v.
  Frozen(const Branch<T>& branch, const T* x, T* z, bool transpose, const Tangent<T>& tangent, const Context& context,
         Carver& carver);

  cudaError_t freeze() const;

  // A chain on this branch: what to start from and what to write is left to the caller. Valid while this object lives.
  Chain<T> chain() const;

 private:
  Branch<T> branch_;
  bool transpose_;
  Context context_;
  std::vector<T*> forward_, transposed_, derivatives_;
  std::optional<PlannedForward<T>> walk_;
};

}  // namespace irf::cuda
