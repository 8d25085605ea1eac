// A fixed order of the numbers of an event. What stays side by side, as the pixels of a channel do under a permutation
// of channels, is copied as a run.
#pragma once

#include "cpu/parallel.h"
#include "cpu/workspace.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
void rearrange(const RearrangeOperands<T>& op, const Parallel& parallel) {
  constexpr int64_t kLongRun = 8;  // on average: below, a copy of each number by itself is as quick
  Workspace workspace;
  const int64_t d = op.event_size;
  auto* start = workspace.take<int64_t>(d + 1);
  int64_t runs = 0;
  for (int64_t i = 0; i < d; ++i)
    if (i == 0 || op.index[i] != op.index[i - 1] + 1) start[runs++] = i;
  start[runs] = d;
  for_each_share(parallel, op.batch, d, [&](int64_t b) {
    const T* x = op.x + b * d;
    T* z = op.z + b * d;
    if (runs * kLongRun <= d)
      for (int64_t k = 0; k < runs; ++k) {
        const int64_t i = start[k], j = op.index[i], from = op.transpose ? i : j, to = op.transpose ? j : i;
        std::memcpy(z + to, x + from, sizeof(T) * (start[k + 1] - i));
      }
    else if (op.transpose)
      for (int64_t i = 0; i < d; ++i) z[op.index[i]] = x[i];
    else
      for (int64_t i = 0; i < d; ++i) z[i] = x[op.index[i]];
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
