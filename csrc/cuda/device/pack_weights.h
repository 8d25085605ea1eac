// Packing of a branch's weights, rounded to a precision (the form is described in device/pack.h): one launch for 16
// stages.
#pragma once

#ifndef SIMT_EMULATED
#include <cuda_runtime_api.h>
#endif

#include <vector>

#include "cuda/device/pack.h"
#include "cuda/device/workspace.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

enum class Form { kForward, kTransposed };

// Room for the packed weights of every stage.
template <class T>
std::vector<T*> carve_packed(const Branch<T>& branch, Form form, Precision precision, Carver& carver) {
  std::vector<T*> packed(branch.stages);
  for (int i = 0; i < branch.stages; ++i) {
    const Stage<T>& stage = branch.stage[i];
    packed[i] = carver.take<T>(form == Form::kForward
                                   ? packed_size(stage.in_channels, stage.out_channels, stage.kernel, precision)
                                   : packed_size(stage.out_channels, stage.in_channels, stage.kernel, precision));
  }
  return packed;
}

template <class T>
cudaError_t pack_weights(const Branch<T>& branch, Form form, Precision precision, T* const* packed,
                         cudaStream_t stream);

}  // namespace irf::cuda
