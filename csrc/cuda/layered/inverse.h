// x with x + g(x) = z by fixed-point iterations, layer by layer. Iterations are enqueued in pieces (device/progress.h)
// until all samples have stopped; in a capture, where nobody can look, captured_iterations of them. A sample that has
// stopped costs empty blocks.
#pragma once

#include <vector>

#include "cuda/device/context.h"
#include "cuda/inverse.h"
#include "cuda/layered/stage_rows.h"
#include "iresnet_fast/anderson.h"

namespace irf::cuda {

template <class T>
struct LayeredInverse {
  LayeredInverse(const Inverse<T>& inverse, const Target& target, Workspace& workspace);

  cudaError_t launch(const Inverse<T>& inverse, const Context& context) const;

  // Scratch: rows, and numbers of every sample.
  Buffer<T> z, x, step;
  Buffer<T> best, partials;
  Buffer<int> waited, active;
  Buffer<unsigned> stopped;           // how many samples have
  Buffer<AndersonState<T>> anderson;  // what is known of the samples; this and what follows: of an accelerated inverse
  Buffer<int> undone;                 // whether the sample's last iterate is
  Buffer<T> history;                  // rows of kHistory iterates, then of as many residuals
  std::vector<StageRows<Buffer<T>>> stages;  // [L] h only
};

}  // namespace irf::cuda
