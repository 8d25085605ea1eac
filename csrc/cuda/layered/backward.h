// The gradient of a branch (docs/mathematics.md, 4), layer by layer: a forward walk that keeps a_i and h_i, the
// tangents and cotangents of every pair, what exact traces add (layered/trace_gradients.h), the ordinary backward walk,
// and the parameter gradients from what they left.
// All intermediates are rows in the workspace, and all pairs share every launch. What residual_logdet kept (kept.h) is
// neither walked nor written again.
#pragma once

#include <optional>
#include <vector>

#include "cuda/device/pack_weights.h"
#include "cuda/layered/stage_rows.h"
#include "cuda/layered/trace_gradients.h"
#include "cuda/layered/weight_gradient.h"

namespace irf::cuda {

template <class T>
struct LayeredBackward {
  LayeredBackward(const Branch<T>& branch, const BranchBackwardOperands<T>& op, const Target& target,
                  Workspace& workspace);

  cudaError_t launch(const Context& context) const;

  Branch<T> branch;
  BranchBackwardOperands<T> op;
  bool recall;  // a_i, h_i, t_i and D_i t_i of the inner stages were kept
  std::optional<PackedWeights<T>> forward;
  PackedWeights<T> transposed;
  TraceGradients<T> traces;
  std::vector<StageRows<Buffer<T>>> stages;  // [L] a_i and h_i
  std::vector<Buffer<T>> t, p;               // [L] tangents t_i and D_i t_i of all pairs
  std::vector<Buffer<T>> curved;   // [L] E_i t_i A_i^T r_{i+1} of all pairs, in the place of t_i where it is ours,
                                   // then E_i times the gradients of traces by D_i
  std::vector<Buffer<T>> r;        // [L + 1] cotangents of all pairs; r_0 serves nobody
  std::vector<Buffer<T>> s;        // [L + 1] ordinary backward
  std::vector<Buffer<T>> terms;    // [L] terms of the slope: of the ordinary backward, of the pairs, of the traces
  std::vector<Buffer<T>> factors;  // [L] gradient of the factor, then what all pairs and traces add to it
  std::vector<WeightGradient<T>> gradients;  // [L] without pointers
  std::vector<Buffer<T>> partials;           // [L] of the gradients

 private:
  void take_rows(Precision precision, Workspace& workspace);
  void take_gradients(const Target& target, Workspace& workspace);
};

}  // namespace irf::cuda
