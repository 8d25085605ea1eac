// A forward walk or a power chain with what it needs to run, resident or layer by layer as its plan says.
#pragma once

#include <optional>
#include <vector>

#include "cuda/layered/chain.h"
#include "cuda/layered/forward.h"
#include "cuda/layered/tangent.h"
#include "cuda/resident/chain.h"
#include "cuda/resident/forward.h"

namespace irf::cuda {

// z and g as in LayeredForward; derivatives: rows of D_i [L], null where not wanted, or an empty list. With a
// tangent, D_i of every stage that is no identity must be wanted, and the rows of `tangent.kept` are written too.
template <class T>
class PlannedForward {
 public:
  PlannedForward(const Branch<T>& branch, const T* const* weights, const T* x, const std::vector<T*>& derivatives, T* z,
                 T* g, const Tangent<T>& tangent, const Context& context, Carver& carver);

  cudaError_t run() const;

 private:
  ResidentForward<T> resident_;
  Context context_;
  ResidentPlan plan_;
  std::vector<StageRows<T>> stages_;
  LayeredForward<T> layered_;
  std::optional<LayeredForwardScratch<T>> scratch_;
  T* tangent_entry_ = nullptr;
};

template <class T>
ResidentPlan plan_chain(const Chain<T>& chain, const Context& context);

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
