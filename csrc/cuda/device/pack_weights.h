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
  PackedWeights(const Branch<T>& branch, Form form, Precision precision, Packing packing, Workspace& workspace)
      : stages_(branch.stage, branch.stage + branch.stages), form_(form), packing_(packing), packed_(branch.stages) {
    for (int i = 0; i < branch.stages; ++i) {
      const Stage<T>& stage = branch.stage[i];
      const bool forward = form == Form::kForward;
      const int K = forward ? stage.in_channels : stage.out_channels;
      const int N = forward ? stage.out_channels : stage.in_channels;
      packed_[i] = workspace.take<T>(packed_size(K, N, stage.kernel, precision, packing));
    }
  }

  const std::vector<Buffer<T>>& buffers() const { return packed_; }

  // Fills them, at the precision of the context.
  cudaError_t launch(const Context& context) const;

 private:
  std::vector<Stage<T>> stages_;  // their sizes and weights
  Form form_;
  Packing packing_;
  std::vector<Buffer<T>> packed_;  // [L]
};

}  // namespace irf::cuda
