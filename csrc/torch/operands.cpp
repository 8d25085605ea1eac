#include "torch/operands.h"

namespace irf::binding {

BranchArguments::BranchArguments(const Tensor& x, const Tensors& weights, const Tensors& biases, const Tensors& betas,
                                 const std::vector<int64_t>& activations)
    : x_(dense(x)), activations_(activations) {
  const size_t stages = weights.size();
  check_device(x, "x");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "x must be float32 or float64");
  STD_TORCH_CHECK(x.dim() == 2 || x.dim() == 4, "x must be [B, d] or [B, C, H, W]");
  STD_TORCH_CHECK(stages > 0 && biases.size() == stages && betas.size() == stages && activations.size() == stages,
                  "weights, biases, betas and activations must have one entry per stage");
  int64_t channels = x.size(1);
  for (size_t i = 0; i < stages; ++i) {
    const Tensor& w = weights[i];
    STD_TORCH_CHECK(w.dim() == x.dim() && w.size(1) == channels, "weight ", i,
                    " does not fit the channels of its input");
    STD_TORCH_CHECK(w.dim() == 2 || (w.size(2) == w.size(3) && w.size(2) % 2 == 1), "weight ", i,
                    " must have an odd square kernel");
    check_like(w, x, w.numel(), "weights");
    check_like(biases[i], x, biases[i].numel() == 0 ? 0 : w.size(0), "biases");
    check_like(betas[i], x, betas[i].numel() == 0 ? 0 : 1, "betas");
    STD_TORCH_CHECK(activations[i] >= 0 && activations[i] < static_cast<int64_t>(Activation::kCount),
                    "unknown activation id");
    const bool has_slope = static_cast<Activation>(activations[i]) == Activation::kLipSwish;
    STD_TORCH_CHECK(has_slope == (betas[i].numel() == 1), "lipswish, and only it, takes a beta");
    channels = w.size(0);
    weights_.push_back(dense(w));
    biases_.push_back(dense(biases[i]));
    betas_.push_back(dense(betas[i]));
  }
}

std::vector<int64_t> BranchArguments::event_sizes(std::vector<int64_t> leading, int64_t channels) const {
  leading.push_back(channels);
  for (int64_t axis = 2; axis < x_.dim(); ++axis) leading.push_back(x_.size(axis));
  return leading;
}

int64_t BranchArguments::parameter_count() const {
  int64_t count = 0;
  for (const Tensors* list : {&weights_, &biases_, &betas_})
    for (const Tensor& t : *list) count += t.numel();
  return count;
}

}  // namespace irf::binding
