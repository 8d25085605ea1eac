// A branch frozen at a batch of points, and power chains on it, resident or layer by layer as the plan says: what
// residual_logdet, jacobian_powers and jacobian are made of.
#pragma once

#include <optional>
#include <vector>

#include "cuda/forward.h"
#include "cuda/layered_chain.h"
#include "cuda/pack_weights.h"
#include "cuda/resident_chain.h"

namespace irf::cuda {

// The derivatives D_i at x and the packed weights of chains in one direction.
template <class T>
class Frozen {
 public:
  // z, [B, d], gets x + g(x); or null.
  Frozen(const Branch<T>& branch, const T* x, T* z, bool transpose, const Context& context, Carver& carver);

  cudaError_t freeze() const;

  // A chain on this branch: what to start from and what to write is left to the caller. Valid while this object lives.
  Chain<T> chain() const;

 private:
  Branch<T> branch_;
  bool transpose_;
  Context context_;
  std::vector<T*> forward_, transposed_, derivatives_;
  std::vector<StageRows<T>> stages_;
  LayeredForward<T> walk_;
  std::optional<LayeredForwardScratch<T>> scratch_;
};

template <class T>
ResidentPlan plan_chain(const Chain<T>& chain, const Context& context);

// A chain with what it needs to run.
template <class T>
class PlannedChain {
 public:
  PlannedChain(const Chain<T>& chain, const Context& context, Carver& carver);

  cudaError_t run() const;

 private:
  Chain<T> chain_;
  Context context_;
  ResidentPlan plan_;
  std::optional<LayeredChainScratch<T>> scratch_;
};

}  // namespace irf::cuda
