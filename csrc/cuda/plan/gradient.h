// The blocks that compute weight gradients (layered/weight_gradient.cu), for the kernels and for what counts their work
// (plan/costs.cpp).
#pragma once

namespace irf::cuda {

// A block sums a tile of rows x columns of the gradient of float32 numbers, `depth` rows of the batch at a time.
struct GradientBlock {
  int rows, columns, depth;
};
// The wide one, and three for narrow stages. The one that computes least in vain is taken, of equals the first.
constexpr GradientBlock kGradientBlocks[] = {{64, 128, 16}, {32, 64, 32}, {16, 128, 32}, {128, 16, 32}};

// Splits of the batch are so many that this many blocks run on a multiprocessor, each with at least so many chunks of
// `depth` rows.
constexpr int kGradientBlocksAtOnce = 2, kLeastGradientChunks = 4;

}  // namespace irf::cuda
