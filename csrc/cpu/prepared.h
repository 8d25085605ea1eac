// What every op does once per call before it walks: share the samples out, choose the tile, pack the weights.
#pragma once

#include "cpu/contract_bf16.h"
#include "cpu/parallel.h"
#include "cpu/product_bf16.h"
#include "cpu/slope.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Dense tiles: wide enough to reuse each weight often, narrow enough that a tile's buffers stay in the second-level
// cache.
constexpr int kSmallestTile = 48, kLargestTile = 128;

// Samples per dense tile that leave the fewest idle lanes in `samples`; the wider tile on a tie.
template <class T>
int pick_dense_tile(int64_t samples) {
  int best = 0;
  int64_t least = 0;
  const int64_t first = divide_up(samples, int64_t(kLargestTile)), last = divide_up(samples, int64_t(kSmallestTile));
  for (int64_t tiles = first; tiles <= last; ++tiles) {
    const int tile = static_cast<int>(round_up(divide_up(samples, tiles), int64_t(kLanes<T>)));
    const int64_t columns = tile * divide_up(samples, int64_t(tile));
    if (best == 0 || columns < least) best = tile, least = columns;
  }
  return best;
}

// Images to interleave in a tile: as many as leave the fewest lanes idle, those of threads without images included.
// More than one makes the tile larger, so it must gain a twentieth, and stay small or do many products per number it
// moves.
template <class T>
int pick_images(const Branch<T>& branch, int reach, const Parallel& parallel, int64_t copies) {
  constexpr int kSmallTileBytes = 192 << 10;
  constexpr double kManyProducts = 128;
  double products = 0, outputs = 0, widest = 0;
  for (int i = 0; i < branch.stages; ++i) {
    const Stage<T>& stage = branch.stage[i];
    products += double(stage.in_channels) * stage.out_channels * stage.kernel * stage.kernel;
    outputs += stage.out_channels;
    widest = max_of(widest, double(stage.out_channels));
  }
  int best = 1;
  double most = 0;
  for (int images = 1; images <= kLanes<T>; images *= 2) {
    const int gap = grid_gap<T>(branch.width, images, reach, parallel.bf16);
    const double columns = double(grid_vectors<T>(branch.height, branch.width, gap, images)) * kLanes<T>;
    if (images > 1 && widest * columns * sizeof(T) > kSmallTileBytes && products / outputs < kManyProducts) break;
    const int64_t samples = copies > 1 ? copies : branch.batch;
    const int64_t share = copies > 1 ? 1 : parallel.threads;
    const int64_t tiles = round_up(divide_up(samples, int64_t(images)), share);
    const double useful = double(samples) * branch.pixels() / (double(tiles) * columns);
    if (useful > (best == 1 ? 1.05 : 1.0) * most || images == 1) best = images, most = useful;
  }
  return best;
}

enum Packs { kPackForward = 1, kPackTransposed = 2 };

// Everything the threads of one call share.
template <class T>
struct Prepared {
  const Branch<T>& branch;
  Parallel parallel;
  int chunks;    // one per thread
  int64_t unit;  // chunks begin at multiples of it, so that they end with whole vectors of samples
  int samples_per_tile;
  Layout<T> layout;
  int most_channels;
  PackedWeights<T>* forward;     // [L] or null
  PackedWeights<T>* transposed;  // [L] or null
  T* slope;                      // [L] softplus(beta) of each activation

  // `copies`: columns of a tile that one sample takes (the exact Jacobian gives each sample d of them).
  Prepared(const Branch<T>& branch_, const Parallel& parallel_, Workspace& workspace, int64_t copies = 1)
      : branch(branch_), parallel(parallel_), forward(nullptr), transposed(nullptr) {
    most_channels = branch.stage[0].in_channels;
    int reach = 0;
    for (int i = 0; i < branch.stages; ++i) {
      most_channels = max_of(most_channels, branch.stage[i].out_channels);
      reach = max_of(reach, branch.stage[i].kernel / 2);
    }
    const int images = branch.dense() ? 0 : pick_images(branch, reach, parallel, copies);
    unit = copies > 1 ? 1 : branch.dense() ? kLanes<T> : images;
    const int64_t units = divide_up(branch.batch, unit);
    chunks = static_cast<int>(min_of(int64_t(parallel.threads), units));
    if (branch.dense()) {
      samples_per_tile = pick_dense_tile<T>(divide_up(units, int64_t(chunks)) * unit * copies);
      layout = dense_layout<T>(samples_per_tile, workspace);
    } else {
      samples_per_tile = images;
      const int gap = grid_gap<T>(branch.width, images, reach, parallel.bf16);
      layout = grid_layout<T>(branch.height, branch.width, gap, reach, reach, images, workspace);
    }
    slope = workspace.take<T>(branch.stages);
    for (int i = 0; i < branch.stages; ++i) slope[i] = slope_of(branch.stage[i]);
  }

  // Packs the weights of every stage for products with A, with A^T, or both.
  void pack(int packs, Workspace& workspace) {
    if (packs & kPackForward) forward = reserve(false, workspace);
    if (packs & kPackTransposed) transposed = reserve(true, workspace);
    run_each(parallel, branch.stages * kTaskShare, [this](int64_t index) { pack_share(index); });
  }

  // Packs one more linear map [rows, channels, k, k], no wider than a stage, for products with it or its transpose that
  // do not round their operands.
  PackedWeights<T> pack_map(const T* map, int rows, int channels, int k, bool transpose, Workspace& workspace) const {
    const int taps = k * k;
    PackedWeights<T> packed = reserve_map(rows, channels, k, transpose, false, workspace);
    const int64_t row = int64_t(channels) * taps;
    run_each(parallel, packed.tiles(), [&](int64_t tile) {
      pack_tile(packed, static_cast<int>(tile), map, transpose ? taps : row, transpose ? row : taps);
    });
    return packed;
  }

  // The column offset of each tap of a kernel of side k, for A or for A^T.
  const int* tap_offsets(int k, bool transpose, Workspace& workspace) const {
    const int sign = transpose ? -1 : 1;
    int* offset = workspace.take<int>(k * k);
    for (int t = 0; t < k * k; ++t)
      offset[t] = sign * ((t / k - k / 2) * layout.pitch + (t % k - k / 2) * layout.images);
    return offset;
  }

  // Where vectors run on from row to row: the lanes that each tap takes to a pixel of the same row.
  const LaneMask* const* tap_edges(int k, bool transpose, Workspace& workspace) const {
    const int sign = transpose ? -1 : 1;
    if (k == 1 || layout.pitch > layout.row_columns() || layout.row_columns() % kLanes<T> == 0) return nullptr;
    const LaneMask** edge = workspace.take<const LaneMask*>(k * k);
    for (int t = 0; t < k * k; ++t) {
      const int right = sign * (t % k - k / 2);
      edge[t] = right == 0 ? nullptr : t >= k ? edge[t - k] : edge_masks(right, workspace);
    }
    return edge;
  }

  // Of the activation of stage i.
  Parameters<T> parameters(int i) const { return {slope[i], branch.stage[i].constant}; }

  // Samples [begin, end) of a chunk.
  int64_t begin(int64_t chunk) const {
    return min_of(branch.batch, divide_up(branch.batch, unit) * chunk / chunks * unit);
  }

  // A tile whose uncovered columns read as zero.
  T* take(int channels, Workspace& workspace) const {
    T* tile = workspace.take<T>(layout.size(channels));
    zero_uncovered(layout, tile, channels);
    return tile;
  }

  // Room for the operands that one thread rounds at a time: those of a product, or of a contraction.
  T* take_narrow(Workspace& workspace) const {
    if constexpr (kBf16Products<T>) {
      if (!parallel.bf16) return nullptr;
      int64_t floats = layout.size(divide_up(most_channels, 2));
      for (int i = 0; i < branch.stages; ++i)
        floats =
            max_of(floats, 2 * NarrowRows(layout).floats(branch.stage[i].in_channels + branch.stage[i].out_channels));
      return workspace.take<T>(floats);
    }
    return nullptr;
  }

 private:
  static constexpr int kTaskShare = 8;  // tasks per stage, so that one wide stage is packed by several threads

  // Per vector, the lanes whose neighbour `right` pixels to the right lies in the same row.
  const LaneMask* edge_masks(int right, Workspace& workspace) const {
    LaneMask* mask = workspace.take_zeroed<LaneMask>(layout.vectors);
    for (int j = 0; j < layout.vectors; ++j)
      for (int lane = 0; lane < kLanes<T>; ++lane) {
        const int x = (j * kLanes<T> + lane) / layout.images % layout.width + right;
        if (x >= 0 && x < layout.width) mask[j] |= LaneMask(1 << lane);
      }
    return mask;
  }

  PackedWeights<T>* reserve(bool transpose, Workspace& workspace) const {
    auto* packs = workspace.take<PackedWeights<T>>(branch.stages);
    for (int i = 0; i < branch.stages; ++i) {
      const Stage<T>& stage = branch.stage[i];
      packs[i] = reserve_map(stage.out_channels, stage.in_channels, stage.kernel, transpose, parallel.bf16, workspace);
    }
    return packs;
  }

  // Of a map [rows, channels, k, k]; `bf16`: its products round their operands where that pays.
  PackedWeights<T> reserve_map(int rows, int channels, int k, bool transpose, bool bf16, Workspace& workspace) const {
    const int to = transpose ? channels : rows, from = transpose ? rows : channels;
    PackedWeights<T> packed = reserve_weights<T>(to, from, k * k, tap_offsets(k, transpose, workspace),
                                                 bf16 && bf16_product_pays<T>(to, from, k * k), workspace);
    packed.edge = tap_edges(k, transpose, workspace);
    return packed;
  }

  void pack_share(int64_t index) const {
    const int i = static_cast<int>(index / kTaskShare), share = static_cast<int>(index % kTaskShare);
    const Stage<T>& stage = branch.stage[i];
    const int64_t taps = int64_t(stage.kernel) * stage.kernel, row = stage.in_channels * taps;
    // Neighbouring tiles of a transposed map share the cache lines they read: contiguous shares.
    auto each_tile = [&](const PackedWeights<T>& packed, int64_t row_stride, int64_t channel_stride) {
      const int begin = packed.tiles() * share / kTaskShare, end = packed.tiles() * (share + 1) / kTaskShare;
      for (int tile = begin; tile < end; ++tile) pack_tile(packed, tile, stage.weight, row_stride, channel_stride);
    };
    if (forward) each_tile(forward[i], row, taps);
    if (transposed) each_tile(transposed[i], taps, row);
  }
};

// Calls body(chunk) for every chunk of `prepared`, in parallel.
template <class T, class Body>
void for_each_chunk(const Prepared<T>& prepared, const Body& body) {
  run_each(prepared.parallel, prepared.chunks, body);
}

// Calls body(first, count) for every tile of a chunk.
template <class T, class Body>
void for_each_tile(const Prepared<T>& prepared, int64_t chunk, const Body& body) {
  const int64_t end = prepared.begin(chunk + 1);
  for (int64_t first = prepared.begin(chunk); first < end; first += prepared.samples_per_tile)
    body(first, static_cast<int>(min_of(int64_t(prepared.samples_per_tile), end - first)));
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
