// The memory that products need for sums between two kernels.
#pragma once

#include <algorithm>
#include <utility>

#include "cuda/device/context.h"
#include "cuda/plan/product.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

// Asks for the sums of any product of a branch, in either form of its weights, on the samples and on `probes` items of
// each.
template <class T>
void share_sums(const Branch<T>& branch, int64_t probes, const Target& target, Workspace& workspace) {
  for (int i = 0; i < branch.stages; ++i) {
    const Stage<T>& stage = branch.stage[i];
    for (const int64_t items : {branch.batch, probes * branch.batch})
      for (const auto& [K, N] :
           {std::pair(stage.in_channels, stage.out_channels), std::pair(stage.out_channels, stage.in_channels)}) {
        const ProductShape shape{K, N, stage.kernel, items * branch.pixels()};
        if (shape.rows == 0) continue;
        const ProductPlan plan = plan_product(shape, target.precision, sizeof(T), target.card);
        workspace.share(sizeof(T) * static_cast<size_t>(gathered_elements(plan, shape, target.precision)));
      }
  }
}

}  // namespace irf::cuda
