// A GPU is given its maps: they are products of weights that are there, which torch computes.
#include "torch/traces.h"

namespace irf::binding {

void make_map(const BranchArguments&, Tensor&) { STD_TORCH_CHECK(false, "a map must be given on a GPU; pass one."); }

void add_map_gradient(const BranchArguments&, const Tensor&, const void*, void*, void*) {
  STD_TORCH_CHECK(false, "a map must be given on a GPU; pass one.");
}

}  // namespace irf::binding
