// A branch frozen at a batch of points, to run chains on: what residual_logdet, jacobian_powers and jacobian share.
#pragma once

#include <vector>

#include "cuda/pack_weights.h"
#include "cuda/planned.h"

namespace irf::cuda {

// The derivatives D_i at x, and the packed weights of chains in one direction, all at the precision at which the
// forward walk and the chain are cheapest together.
template <class T>
class Frozen {
 public:
  // z, [B, d], gets x + g(x); or null. `request` is the chain that will run.
  Frozen(const Branch<T>& branch, const T* x, T* z, const WalkRequest& request, const Context& context, Carver& carver);

  cudaError_t freeze() const;

  // A chain on this branch: what to start from and what to write is left to the caller. Valid while this object lives.
  Chain<T> chain() const;

  // What that chain is to be run with: its precision is the one chosen here.
  const Context& context() const { return context_; }

 private:
  Branch<T> branch_;
  bool transpose_;
  Context context_;
  std::vector<T*> forward_, transposed_, derivatives_;
  std::optional<PlannedForward<T>> walk_;
};

}  // namespace irf::cuda
