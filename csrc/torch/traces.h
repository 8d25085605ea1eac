// The exact first terms of a series as they come from Python, checked, and the struct over them.
#pragma once

#include "torch/operands.h"

namespace irf::binding {

class TraceArguments {
 public:
  TraceArguments() = default;
  // `stages`: the left and the right stage of each map, -1 where there is no right one.
  TraceArguments(const BranchArguments& branch, const Tensors& maps, const std::vector<int64_t>& stages);

  int count() const { return static_cast<int>(maps_.size()); }
  int64_t parameter_count() const;

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
};

}  // namespace irf::binding
