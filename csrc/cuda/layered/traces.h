// Exact traces, added to the log-determinants of a series. The derivatives are those that a forward walk of either way
// leaves in memory, so this is layer by layer at every size: one launch for each trace, which leaves sums of rows, and
// one that adds them up.
#pragma once

#include <vector>

#include "cuda/device/context.h"
#include "cuda/device/pack_weights.h"
#include "cuda/layered/trace_maps.h"

namespace irf::cuda {

template <class T>
class LayeredTraces {
 public:
  // `derivatives`: [L] rows of D_i. `value`, [B], has the rest of the series. Without traces nothing is launched.
  LayeredTraces(const Branch<T>& branch, const Traces<T>& traces, std::vector<Buffer<T>> derivatives, T* value,
                const Target& target, Workspace& workspace);

  cudaError_t launch(const Context& context) const;

 private:
  cudaError_t sum_rows(int trace, const Context& context, int& count) const;

  Branch<T> branch_;
  Traces<T> traces_;
  std::vector<Buffer<T>> derivatives_;
  T* value_;
  TraceMaps<T> maps_;
  PackedWeights<T> packed_;
  std::vector<Buffer<T>> operands_;  // D_right, where the rows of it are none
  std::vector<Buffer<T>> partials_;  // per trace: [B][count]
};

}  // namespace irf::cuda
