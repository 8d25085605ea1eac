// The maps of exact traces (Trace in iresnet_fast/params.h) that have a right stage, as the stages of a branch of their
// own: D_right goes in, and what D_left is multiplied by comes out. So whatever packs, plans, multiplies and
// differentiates the weights of a branch serves them too.
#pragma once

#include <vector>

#include "iresnet_fast/params.h"

namespace irf::cuda {

constexpr int kMostTraces = 2;

template <class T>
class TraceMaps {
 public:
  TraceMaps(const Branch<T>& branch, const Traces<T>& traces) : like_(branch) {
    for (int i = 0; i < traces.count; ++i) {
      const Trace<T>& trace = traces.trace[i];
      numbers_.push_back(static_cast<int>(stages_.size()));
      if (trace.right < 0) continue;
      Stage<T> stage{};
      stage.in_channels = branch.stage[trace.right].in_channels;
      stage.out_channels = branch.stage[trace.left].in_channels;
      stage.kernel = trace.kernel;
      stage.weight = trace.map;
      stages_.push_back(stage);
    }
  }

  // Lives as long as these maps.
  Branch<T> branch() const {
    return {static_cast<int>(stages_.size()), stages_.data(), like_.height, like_.width, like_.batch};
  }
  // The stage of a trace that has one.
  int operator[](int trace) const { return numbers_[trace]; }

 private:
  Branch<T> like_;  // sizes only
  std::vector<Stage<T>> stages_;
  std::vector<int> numbers_;
};

}  // namespace irf::cuda
