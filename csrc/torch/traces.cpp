#include "torch/traces.h"

namespace irf::binding {

TraceArguments::TraceArguments(const BranchArguments& branch, const Tensors& maps, const std::vector<int64_t>& stages)
    : stages_(stages) {
  STD_TORCH_CHECK(maps.size() <= 2 && stages.size() == 2 * maps.size(),
                  "there must be at most two maps with two stages each, got ", maps.size(), " and ", stages.size(),
                  "; leave out or add what is missing.");
  const Tensor& x = branch.x();
  for (size_t i = 0; i < maps.size(); ++i) {
    const Tensor& map = maps[i];
    const int64_t left = stages[2 * i], right = stages[2 * i + 1] == kMade ? -1 : stages[2 * i + 1];
    made_.push_back(stages[2 * i + 1] == kMade);
    stages_[2 * i + 1] = right;
    STD_TORCH_CHECK(branch.has_derivative(left) && (right == -1 || branch.has_derivative(right)),
                    "stages must be of activations that are no identity, or -1 on the right, got ", left, " and ",
                    right, "; change them.");
    bool fits = map.dim() > 0 && map.size(0) == branch.channels(left);
    if (right >= 0) {
      fits = fits && map.dim() == x.dim() && map.size(1) == branch.channels(right);
      if (fits && map.dim() == 4)
        fits = map.size(2) == map.size(3) && map.size(2) % 2 == 1 && map.size(2) <= branch.largest_kernel();
    } else {
      fits = fits && map.dim() == x.dim() - 1;
      for (int64_t axis = 1; fits && axis < map.dim(); ++axis) fits = map.size(axis) == x.size(axis + 1);
    }
    STD_TORCH_CHECK(fits,
                    "a map must be [C_left, C_right], [C_left, C_right, k, k], [C_left] or [C_left, height, "
                    "width]; reshape it.");
    check_like(map, x, map.numel(), "maps");
    if (made_.back()) {
      STD_TORCH_CHECK(left == 1 && branch.stage_count() == 2 && !branch.has_derivative(0) && branch.square(),
                      "a map can be made of two stages after no activation only, which return as many channels as they "
                      "take; pass one.");
      std::vector<int64_t> sizes;
      for (int64_t axis = 0; axis < map.dim(); ++axis) sizes.push_back(map.size(axis));
      maps_.push_back(make(sizes, x));
      make_map(branch, maps_.back());
    } else {
      maps_.push_back(dense(map));
    }
  }
}

int64_t TraceArguments::parameter_count() const {
  int64_t count = 0;
  for (const Tensor& map : maps_) count += map.numel();
  return count;
}

}  // namespace irf::binding
