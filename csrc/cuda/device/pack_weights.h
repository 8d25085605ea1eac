// Packing of a branch's weights (the form is described in device/pack.h): one launch for 16 stages.
#pragma once

#include <vector>

#include "cuda/device/context.h"
#include "cuda/device/pack.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

enum class Form { kForward, kTransposed };

template <class T>
class PackedWeights {
 public:
  PackedWeights(const Branch<T>& branch, Form form, Precision precision, Workspace& workspace)
      : branch_(branch), form_(form), packed_(branch.stages) {
    for (int i = 0; i < branch.stages; ++i) {
      const Stage<T>& stage = branch.stage[i];
      packed_[i] = workspace.take<T>(form == Form::kForward
                                         ? packed_size(stage.in_channels, stage.out_channels, stage.kernel, precision)
                                         : packed_size(stage.out_channels, stage.in_channels, stage.kernel, precision));
    }
  }

  const std::vector<Buffer<T>>& buffers() const { return packed_; }

  // Fills them, at the precision of the context.
  cudaError_t launch(const Context& context) const;

 private:
  Branch<T> branch_;
  Form form_;
  std::vector<Buffer<T>> packed_;  // [L]
};

}  // namespace irf::cuda
