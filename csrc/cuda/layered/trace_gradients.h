// The gradient of exact traces, weight_b factor_b <D_left, map D_right> of every sample. What arrives at D_i of a stage
// is weight factor (map D_right) or weight factor (map^T D_left), and goes on from there as what a pair's cotangent
// brings there (layered/linearized.cuh), with a tangent of one. The gradient of a map is a weight gradient, or without
// a right stage a sum over samples.
#pragma once

#include <vector>

#include "cuda/device/pack_weights.h"
#include "cuda/layered/trace_maps.h"
#include "cuda/layered/weight_gradient.h"

namespace irf::cuda {

template <class T>
class TraceGradients {
 public:
  TraceGradients(const Branch<T>& branch, const BranchBackwardOperands<T>& op, const Target& target,
                 Workspace& workspace);

  // How many gradients by D of a stage there are: addends for s_i and the gradient of the factor.
  int sides(int stage) const;
  // How many terms of its slope they leave.
  int64_t slope_terms(int stage) const;

  // By stage: rows of a, and where the first of the sides goes; null: not wanted.
  struct Places {
    std::vector<T*> a, curved, factors, terms;
  };
  // Also writes the gradients of the maps.
  cudaError_t launch(Places places, const Context& context) const;

 private:
  // The gradient of a trace by D of one of its stages.
  struct Side {
    int trace, stage;
    bool right;
    int64_t slope_terms;
  };

  const Side* find(int trace, bool right) const;
  void take(const Target& target, Workspace& workspace);
  int64_t slope_terms_of(const Side& side, const Target& target) const;
  WeightGradient<T> map_gradient(int trace, Precision precision) const;
  cudaError_t by_derivatives(int trace, Places& places, const Context& context) const;
  cudaError_t by_map(int trace, T* result, const Context& context) const;

  Branch<T> branch_;
  BranchBackwardOperands<T> op_;
  TraceMaps<T> maps_;
  PackedWeights<T> forward_, transposed_;
  std::vector<Side> sides_;
  // Per trace, as operands; without a right stage there is only the first, as it is.
  std::vector<Buffer<T>> left_, right_, scaled_right_;  // weight factor D_left, D_right, weight factor D_right
  std::vector<Buffer<T>> partials_;                     // of the gradients of the maps
};

}  // namespace irf::cuda
