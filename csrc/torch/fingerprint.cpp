#include <torch/csrc/stable/library.h>

#include "device.h"

namespace irf::binding {
namespace {

Tensor fingerprint(const Tensors& weights) {
  STD_TORCH_CHECK(!weights.empty(), "weights must hold at least one tensor, got none; pass one.");
  Tensor result = make({static_cast<int64_t>(weights.size())}, weights[0], ScalarType::Long);
  Tensors kept;
  std::vector<const void*> weight;
  std::vector<int64_t> bytes;
  for (const Tensor& w : weights) {
    check_device(w, "weights");
    STD_TORCH_CHECK(w.device() == weights[0].device(), "weights must be on one device; move them.");
    kept.push_back(dense(w));
    weight.push_back(memory(kept.back()));
    bytes.push_back(kept.back().numel() * static_cast<int64_t>(kept.back().element_size()));
  }
  OnDevice<float>(result).fingerprint(
      {static_cast<int>(weights.size()), weight.data(), bytes.data(), mutable_data<uint64_t>(result)});
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(iresnet_fast, IRF_DEVICE, m) { m.impl("fingerprint", TORCH_BOX(&fingerprint)); }

}  // namespace irf::binding
