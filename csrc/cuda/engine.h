// Forward walks, power chains and inverses of a branch, each resident or layer by layer. This is the only place that
// asks the plan (plan/plan.h) for a precision and a way. All of them are descriptions: they are made once for a call,
// take room for packed weights and scratch from its workspace, and are then launched.
#pragma once

#include <optional>
#include <vector>

#include "cuda/chain.h"
#include "cuda/device/pack_weights.h"
#include "cuda/forward.h"
#include "cuda/inverse.h"
#include "cuda/layered/chain.h"
#include "cuda/layered/forward.h"
#include "cuda/layered/inverse.h"
#include "cuda/plan/plan.h"
#include "cuda/resident/forward.h"

namespace irf::cuda {

constexpr int kExpectedIterations = 20;  // of an inverse
constexpr WalkRequest kInverseWalk{WalkKind::kInverse, 1, kExpectedIterations, false, false};

// `target` at the precision at which a walk is cheapest. A chain counts with the forward walk that linearizes its
// branch.
template <class T>
Target at_cheapest_precision(const Branch<T>& branch, const WalkRequest& request, const Target& target);
// The same for a walk that is always layered.
template <class T>
Target at_cheapest_layered_precision(const Branch<T>& branch, const WalkRequest& request, const Target& target);

template <class T>
class ForwardWalk {
 public:
  ForwardWalk(Forward<T> forward, const Target& target, Workspace& workspace);

  cudaError_t launch(const Context& context) const;

 private:
  Forward<T> forward_;
  ResidentPlan plan_;
  PackedWeights<T> weights_;
  std::optional<LayeredForward<T>> layered_;
};

template <class T>
class PowerChain {
 public:
  PowerChain(Chain<T> chain, const Target& target, Workspace& workspace);

  cudaError_t launch(const Context& context) const;

 private:
  Chain<T> chain_;
  ResidentPlan plan_;
  PackedWeights<T> weights_;
  int probes_at_once_;
  std::optional<LayeredChain<T>> layered_;
};

template <class T>
class InverseWalk {
 public:
  InverseWalk(Inverse<T> inverse, const Target& target, Workspace& workspace);

  cudaError_t launch(const Context& context) const;

 private:
  Inverse<T> inverse_;
  ResidentPlan plan_;
  PackedWeights<T> weights_;
  ResidentHistory<T> history_;
  std::optional<LayeredInverse<T>> layered_;
};

// A branch linearized at a batch of points, to run chains on: its derivatives D_i at x.
template <class T>
class LinearizedBranch {
 public:
  // z, [B, d], gets x + g(x); or null. `tangent` may be without v.
  LinearizedBranch(const Branch<T>& branch, const T* x, T* z, const Tangent<T>& tangent, const Target& target,
                   Workspace& workspace);

  cudaError_t launch(const Context& context) const { return walk_.launch(context); }

  // A chain of J^T (`transpose`) or J: what to start from and what to write is left to the caller.
  Chain<T> chain(bool transpose) const;

 private:
  Branch<T> branch_;
  std::vector<Buffer<T>> derivatives_;
  ForwardWalk<T> walk_;
};

}  // namespace irf::cuda
