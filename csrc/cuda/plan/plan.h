// Which kernels run a branch and how they use the card: pure functions of sizes and card. Plain C++, no CUDA header, so
// that plans are tested and printed (`python -m iresnet_fast plan`) on any machine; kernels only read the result.
//
// Resident: a block owns a group of items for the whole walk. What an item, a group and a slot are, and how rows and
// positions are counted, is said with an example in resident/block.cuh. Layered: one launch per product, for branches
// that do not fit a multiprocessor.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/device/pack.h"
#include "cuda/plan/product.h"
#include "cuda/plan/tiles.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

constexpr int kMaxStages = 16;
constexpr int kMaxThreads = 256;  // per block; each may use 255 registers

struct BranchShape {
  int stages;
  int channels[kMaxStages + 1], kernel[kMaxStages];
  bool identity[kMaxStages];  // the stage's activation: its derivative is one and never stored
  int height, width;          // of an image; 0: dense
  int64_t batch;
};

// A branch of more than kMaxStages stages gets a shape without stages, for which no plan is resident.
template <class T>
BranchShape shape_of(const Branch<T>& branch) {
  BranchShape shape{};
  shape.height = branch.height;
  shape.width = branch.width;
  shape.batch = branch.batch;
  if (branch.stages > kMaxStages) return shape;
  shape.stages = branch.stages;
  shape.channels[0] = branch.stage[0].in_channels;
  for (int i = 0; i < branch.stages; ++i) {
    shape.channels[i + 1] = branch.stage[i].out_channels;
    shape.kernel[i] = branch.stage[i].kernel;
    shape.identity[i] = branch.stage[i].identity();
  }
  return shape;
}

enum class WalkKind : int {
  kTransposed,  // w <- J^T w
  kTangent,     // w <- J w
  kForward,     // g(x)
  kInverse,     // x <- z - g(x)
};

struct WalkRequest {
  WalkKind kind;
  int64_t probes;  // items = probes * batch
  int repeats;     // terms of a series, expected iterations of an inverse; 1
  bool sums;       // a chain: <w_k, v> and |w_k| are wanted
  bool neumann;    // a chain: so is the Neumann vector
};
constexpr WalkRequest kForwardWalk{WalkKind::kForward, 1, 1, false, false};

// The product of stage i in a walk, layer by layer.
inline ProductShape product_shape(const BranchShape& shape, const WalkRequest& request, int i) {
  const int transposed = request.kind == WalkKind::kTransposed;
  const int64_t pixels = shape.height ? int64_t(shape.height) * shape.width : 1;
  return {shape.channels[i + transposed], shape.channels[i + 1 - transposed], shape.kernel[i],
          request.probes * shape.batch * pixels};
}

// One product of a walk: it reduces over K channels and yields N. Offsets in shared memory count elements from its
// start.
struct StagePlan {
  int K, N, kernel;
  int K_padded, N_padded;       // channel_pad
  int flat_rows, column_pitch;  // of the packed weights
  TileKind tile;
  // A warp computes one of `splits` equal parts of the reduction of one tile: row_tiles * column_tiles * splits <=
  // warps.
  int row_tiles, column_tiles, splits;
  int chunk;       // flat rows that are in shared memory at once
  int weight;      // offset, or kNotShared: streamed in chunks
  bool scaled;     // the epilogue multiplies by derivatives
  int derivative;  // their offset, or kNotShared
  int bias;
};
constexpr int kNotShared = -1;

struct ResidentPlan {
  bool resident;        // else layered: nothing below holds but precision and modelled time
  Precision precision;  // that weights and rows are to be packed for
  Family family;
  int threads, items, blocks, blocks_per_multiprocessor;
  int64_t groups;  // block b takes the groups b, b + blocks, b + 2 * blocks, ..
  int stages;
  StagePlan stage[kMaxStages];
  // The state: pixel (y, x) of the item in `slot` has the position origin + slot * image_positions + y * row_positions
  // + x, and its channel c is the element position * pitch + c. Positions between the pixels hold the zero padding,
  // which neighbours share.
  int height, width, pixels;
  int origin, row_positions, image_positions, positions, pitch;
  // Rows of the largest product, with those that fill its last tile: one per pixel of an item. For narrow tiles a line
  // of an image counts as `lane_width` rows, of which those past its width are idle: they keep loads free of bank
  // conflicts.
  int padded_rows, lane_width, padded_lane_rows;
  int event_channels, event_pitch;  // of w and x: channels, and the same padded
  // Offsets in shared memory.
  int stream, stream_size;  // two buffers
  int state, exchange, entry, first_vector, second_vector, sums, slopes, rows, lane_rows;
  int shared_bytes;
  double microseconds;  // modelled (plan/model.h)
};

// What a plan may be asked to be, for tests; 0 or -1: free.
struct PlanChoice {
  int items = 0, threads = 0;
  int weights_shared = -1, derivatives_shared = -1;
  int family = -1;
};

// `wanted`, unless the card has no tensor cores for it or the numbers are double.
Precision usable_precision(Precision wanted, int element_bytes, const Card&);

// The precision at which an op is cheapest among those at least as exact as `wanted`: tensor cores are slower than FMA
// where their tiles are too large or padding too wide. Ops pack weights and rows for it, once for all their walks, so a
// chain counts with the forward walk that finds its derivatives.
Precision cheapest_precision(const BranchShape&, const WalkRequest&, Precision wanted, int element_bytes, const Card&);
// The same for a walk that is always layered.
Precision cheapest_layered_precision(const BranchShape&, const WalkRequest&, Precision wanted, int element_bytes,
                                     const Card&);

// The cheapest way of this precision; an inverse is resident wherever it fits: one launch, which ends with the last
// sample also in a CUDA graph, where a layered one goes on to a fixed count. `resident` says which.
ResidentPlan plan_walk(const BranchShape&, const WalkRequest&, Precision, int element_bytes, const Card&);

// The cheapest resident way, also among those that `choice` allows; `resident` is false if none fits the card.
ResidentPlan plan_resident(const BranchShape&, const WalkRequest&, Precision, int element_bytes, const Card&);
ResidentPlan plan_resident(const BranchShape&, const WalkRequest&, Precision, int element_bytes, const Card&,
                           const PlanChoice& choice);

// A small table: path, tiles, what lies in shared memory, modelled time.
std::string describe_plan(const ResidentPlan&, const Card&, int element_bytes);
// The same of a walk and its plan: where it is layered, why, and the route of every product.
std::string describe_walk(const BranchShape&, const WalkRequest&, const ResidentPlan&, const Card&, int element_bytes);

}  // namespace irf::cuda
