#include "torch/operands.h"

#include <algorithm>

namespace irf::binding {
namespace {

// The pixels of an image, and of those around it that kernels of this side read. The CPU kernels interleave up to 16
// images and count the pixels of all of them.
void check_image(const Tensor& x, int64_t kernel) {
  const int64_t beyond = checked_int(kernel, 1, "the side of a kernel") + 64;
  checked_product({x.size(2) + beyond, x.size(3) + beyond}, kLargestInt / 16, "height x width of the padded image");
}

// A bias or a factor: [C] if it may be shared, [B, C] or [B, C, height, width], in the shape of events; or none.
void check_spread(const Tensor& t, const Tensor& x, int64_t channels, bool shared, const char* name) {
  if (t.numel() == 0 && t.dim() == 1) return check_like(t, x, 0, name);
  const bool per_sample = t.dim() > 1;
  bool fits = per_sample ? t.dim() == 2 || t.dim() == x.dim() : shared && t.dim() == 1;
  fits = fits && t.size(per_sample) == channels && (!per_sample || t.size(0) == x.size(0));
  for (int64_t axis = 2; fits && axis < t.dim(); ++axis) fits = t.size(axis) == x.size(axis);
  STD_TORCH_CHECK(fits, name, " must be [C], [B, C] or [B, C, height, width] with C = ", channels,
                  ", factors never [C]; reshape them.");
  check_like(t, x, t.numel(), name);
}

}  // namespace

BranchArguments::BranchArguments(const Tensor& x, const Tensors& weights, const Tensors& biases, const Tensors& betas,
                                 const Tensors& factors, const std::vector<int64_t>& activations,
                                 const std::vector<double>& constants)
    : x_(dense(x)), activations_(activations), constants_(constants) {
  const size_t stages = weights.size();
  check_device(x, "x");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "x must be float32 or float64; convert it.");
  STD_TORCH_CHECK(x.dim() == 2 || x.dim() == 4, "x must be [B, d] or [B, C, H, W], got ", x.dim(),
                  " dimensions; reshape it.");
  for (const size_t count : {biases.size(), betas.size(), factors.size(), activations.size(), constants.size()})
    STD_TORCH_CHECK(stages > 0 && count == stages,
                    "weights, biases, betas, factors, activations and constants must have as many entries, at least "
                    "one, got ",
                    stages, " and ", count, "; add what is missing.");
  int64_t channels = checked_int(x.size(1), 0, "the channels of x"), side = 1;
  if (x.dim() == 4)
    for (int axis = 2; axis < 4; ++axis) checked_int(x.size(axis), 0, "the sides of the image");
  for (size_t i = 0; i < stages; ++i) {
    const Tensor& w = weights[i];
    STD_TORCH_CHECK(w.dim() == x.dim() && w.size(1) == channels, "weight ", i,
                    " must be [out, in] or [out, in, k, k], as x is, with ", channels, " inputs; reshape it.");
    STD_TORCH_CHECK(w.dim() == 2 || (w.size(2) == w.size(3) && w.size(2) % 2 == 1), "weight ", i,
                    " must have an odd square kernel; pad it with zeros.");
    checked_int(w.size(0), 0, "the outputs of a weight");
    if (w.dim() == 4) {
      side = std::max(side, w.size(2));
      checked_product({w.size(1), w.size(2), w.size(3)}, kLargestInt, "the inputs of an output of a weight");
    }
    check_like(w, x, w.numel(), "weights");
    check_like(betas[i], x, betas[i].numel() == 0 ? 0 : 1, "betas");
    check_spread(biases[i], x, w.size(0), true, "biases");
    check_spread(factors[i], x, channels, false, "factors");
    STD_TORCH_CHECK(activations[i] >= 0 && activations[i] < static_cast<int64_t>(Activation::kCount),
                    "activations must be ids from 0 to ", static_cast<int64_t>(Activation::kCount) - 1, ", got ",
                    activations[i], "; pass those of the registry.");
    STD_TORCH_CHECK(learns_slope(static_cast<Activation>(activations[i])) == (betas[i].numel() == 1),
                    "an activation that learns its slope, and no other, takes a beta; pass a tensor without elements "
                    "to others.");
    channels = w.size(0);
    weights_.push_back(dense(w));
    biases_.push_back(dense(biases[i]));
    betas_.push_back(dense(betas[i]));
    factors_.push_back(dense(factors[i]));
  }
  if (x.dim() == 4) check_image(x, side);
}

std::vector<int64_t> BranchArguments::event_sizes(std::vector<int64_t> leading, int64_t channels) const {
  leading.push_back(channels);
  for (int64_t axis = 2; axis < x_.dim(); ++axis) leading.push_back(x_.size(axis));
  return leading;
}

int64_t BranchArguments::largest_kernel() const {
  int64_t side = 1;
  for (const Tensor& w : weights_) side = std::max(side, w.dim() == 4 ? w.size(2) : 1);
  return side;
}

bool BranchArguments::has_derivative(int64_t stage) const {
  if (stage < 0 || stage >= static_cast<int64_t>(weights_.size())) return false;
  return static_cast<Activation>(activations_[stage]) != Activation::kIdentity || factors_[stage].dim() > 1;
}

int64_t BranchArguments::parameter_count() const { return parameters_before(stage_count()); }

int64_t BranchArguments::parameters_before(int64_t stage) const {
  int64_t count = 0;
  for (int64_t i = 0; i < stage; ++i)
    for (const Tensors* list : {&weights_, &biases_, &betas_, &factors_}) count += (*list)[i].numel();
  return count;
}

}  // namespace irf::binding
