// The exact first terms of a series as they come from Python, checked, and the struct over them.
//
// The map of tr J of two stages after no activation, which stands alone (right = -1), is little to compute and much to
// ask torch for. So a CPU makes it itself, and adds its gradient to those of the weights, where the right stage is
// kMade: the tensor then tells the sizes only.
#pragma once

#include "torch/operands.h"

namespace irf::binding {

constexpr int64_t kMade = -2;

// Fills the map of tr J of these two stages, and adds the gradient of the weights that one of the map means.
void make_map(const BranchArguments& branch, Tensor& map);
void add_map_gradient(const BranchArguments& branch, const Tensor& map, const void* gradient, void* of_first,
                      void* of_last);

class TraceArguments {
 public:
  TraceArguments() = default;
  // `stages`: the left and the right stage of each map, -1 or kMade where there is no right one.
  TraceArguments(const BranchArguments& branch, const Tensors& maps, const std::vector<int64_t>& stages);

  int count() const { return static_cast<int>(maps_.size()); }
  int64_t parameter_count() const;

  // After a backward pass whose packed gradients begin at `packed`: moves those of maps that were made to the weights.
  template <class T>
  void add_gradients(const BranchArguments& branch, T* packed) const {
    T* gradient = packed + branch.parameter_count();
    for (size_t i = 0; i < maps_.size(); ++i) {
      if (made_[i])
        add_map_gradient(branch, maps_[i], gradient, packed, packed + branch.parameters_before(stages_[2 * i]));
      gradient += maps_[i].numel();
    }
  }

  // `traces`: where they live. The coefficients are those of the series, `terms` of them.
  template <class T>
  Traces<T> fill(std::vector<Trace<T>>& traces, const T* coefficients, int terms, bool per_sample) const {
    for (size_t i = 0; i < maps_.size(); ++i) {
      const int right = static_cast<int>(stages_[2 * i + 1]);
      traces.push_back({.left = static_cast<int>(stages_[2 * i]),
                        .right = right,
                        .kernel = right >= 0 && maps_[i].dim() == 4 ? static_cast<int>(maps_[i].size(2)) : 1,
                        .map = data<T>(maps_[i]),
                        .size = maps_[i].numel()});
    }
    return {count(), traces.data(), coefficients, terms, per_sample};
  }

 private:
  Tensors maps_;
  std::vector<int64_t> stages_;
  std::vector<bool> made_;
};

}  // namespace irf::binding
