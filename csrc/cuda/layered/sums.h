// How much memory the products of a walk need for sums between two kernels (Context::sums).
#pragma once

#include <algorithm>

#include "cuda/device/pack.h"
#include "cuda/plan/product.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

// Elements for any product of a branch, in either form of its weights, on the samples and on `probes` items of each.
template <class T>
int64_t largest_sums(const Branch<T>& branch, int64_t probes, Precision precision, const Card& card) {
  int64_t most = 0;
  for (int i = 0; i < branch.stages; ++i) {
    const Stage<T>& stage = branch.stage[i];
    for (const int64_t items : {branch.batch, probes * branch.batch})
      for (const auto& [K, N] :
           {std::pair(stage.in_channels, stage.out_channels), std::pair(stage.out_channels, stage.in_channels)}) {
        const ProductShape shape{K, N, stage.kernel, items * branch.pixels()};
        if (shape.rows == 0) continue;
        const ProductPlan plan = plan_product(shape, precision, sizeof(T), card);
        most = std::max(most, gathered_elements(plan, shape, precision));
      }
  }
  return most;
}

}  // namespace irf::cuda
