// A matrix product whose reduction runs over rows. Columns are (tap, input channel) pairs side by side, so narrow
// stages fill a tile with several taps. Rows are shared out over blocks (the splits) and, in the narrow shapes, over
// the warps of a block.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/block_sum.cuh"
#include "cuda/outer_tile.cuh"
#include "cuda/weight_gradient.h"

namespace irf::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

// A block's tile: ROW_WARPS x COLUMN_WARPS warp tiles; the warps that remain share the rows of memory.
template <class TILE, int ROW_WARPS, int COLUMN_WARPS>
struct BlockShape {
  using Tile = TILE;
  using Element = typename Tile::Element;
  static constexpr int kColumnWarps = COLUMN_WARPS, kTileWarps = ROW_WARPS * COLUMN_WARPS;
  static constexpr int kDepthWarps = kWarps / kTileWarps;
  static constexpr int kRows = ROW_WARPS * Tile::kRows, kColumns = COLUMN_WARPS * Tile::kColumns;
  static constexpr int kWarpDepth = kDepthWarps > 1 ? 8 : 16, kDepth = kDepthWarps * kWarpDepth;
  // A staged row: left, then right. 8 * odd words, which tensor-core tiles and the Loader ask for.
  static constexpr int kPitch = kRows + kColumns + 32 / static_cast<int>(sizeof(Element));
  static constexpr int kAccumulators = Tile::kThreadRows * Tile::kGroups * Tile::kWidth;
  // Who copies: so many neighbouring threads a row, so many vectors each.
  static constexpr int kRowThreads = kThreads / kDepth;
  static constexpr int kLeftVectors = ceil_div(kRows / kVector<Element>, kRowThreads);
  static constexpr int kRightVectors = ceil_div(kColumns / kVector<Element>, kRowThreads);
  static constexpr int kBlocks = kRightVectors > 4 ? 2 : 3;  // a multiprocessor: more registers for more addresses
  static_assert((kDepthWarps - 1) * kWarp * kAccumulators <= 2 * kDepth * kPitch, "sums are exchanged in the stages");
  static_assert(kPitch * sizeof(Element) % 64 == 32 && kRowThreads >= 4, "stores to a stage would meet in a bank");
  static_assert(kRows <= kThreads, "a thread sums one column of the bias");
};

// The copies of one thread: always the same row of a chunk and the same columns.
template <class Shape>
struct Loader {
  using T = typename Shape::Element;
  static constexpr int kWidth = kVector<T>;

  const WeightGradient<T>& op;
  const int lane = static_cast<int>(threadIdx.x) % Shape::kRowThreads;
  const int chunk_row = row_of(static_cast<int>(threadIdx.x) / Shape::kRowThreads);
  unsigned tap[Shape::kRightVectors];  // y << 16 | x, counted from the upper left one
  int offset[Shape::kRightVectors];
  const T *left, *right;
  int64_t rows_left;
  int y, x;  // of the pixel under the upper left tap

  __device__ __forceinline__ explicit Loader(const WeightGradient<T>& op_) : op(op_) {
#pragma unroll
    for (int i = 0; i < Shape::kRightVectors; ++i) {
      const int column = static_cast<int>(blockIdx.x) * Shape::kColumns + (lane + i * Shape::kRowThreads) * kWidth;
      const int flat = column / op.tap_columns(), half = op.kernel / 2;
      const int tap_y = flat / op.kernel, tap_x = flat % op.kernel;
      constexpr unsigned kNeverInside = 0xffff;
      tap[i] = (column < op.partial_columns() ? tap_y : kNeverInside) << 16 | tap_x;
      offset[i] = ((tap_y - half) * op.width + tap_x - half) * op.right_pitch + column % op.tap_columns();
    }
  }

  // Go to a chunk of a pair.
  __device__ __forceinline__ void seek(const RowPair<T>& pair, int64_t chunk) {
    const int64_t row = chunk * Shape::kDepth + chunk_row;
    left = pair.left + row * op.left_pitch + blockIdx.y * Shape::kRows;
    right = pair.right + row * op.right_pitch;
    rows_left = pair.rows - row;
    x = static_cast<int>(row % op.width) - op.kernel / 2;
    y = static_cast<int>(row / op.width % op.height) - op.kernel / 2;
  }

  // Copy this thread's part of the chunk and go to the next one.
  __device__ __forceinline__ void fetch(T* stage) {
    T* to = stage + chunk_row * Shape::kPitch;
#pragma unroll
    for (int i = 0; i < Shape::kLeftVectors; ++i) {
      const int column = (lane + i * Shape::kRowThreads) * kWidth;
      if (Shape::kRows % (Shape::kRowThreads * kWidth) != 0 && column >= Shape::kRows) break;
      const bool inside = rows_left > 0 && static_cast<int>(blockIdx.y) * Shape::kRows + column < op.out_channels;
      copy(to + column, inside ? left + column : op.pair[0].left, inside);
    }
#pragma unroll
    for (int i = 0; i < Shape::kRightVectors; ++i) {
      const int column = (lane + i * Shape::kRowThreads) * kWidth;
      if (Shape::kColumns % (Shape::kRowThreads * kWidth) != 0 && column >= Shape::kColumns) break;
      const bool inside = rows_left > 0 && y + (tap[i] >> 16) < static_cast<unsigned>(op.height) &&
                          x + (tap[i] & 0xffff) < static_cast<unsigned>(op.width);
      copy(to + Shape::kRows + column, inside ? right + offset[i] : op.pair[0].right, inside);
    }
    left += Shape::kDepth * op.left_pitch;
    right += Shape::kDepth * op.right_pitch;
    rows_left -= Shape::kDepth;
    x += Shape::kDepth % op.width;
    y += Shape::kDepth / op.width % op.height;
    if (x >= op.width - op.kernel / 2) x -= op.width, ++y;
    if (y >= op.height - op.kernel / 2) y -= op.height;
  }

  // Where four threads make a row, the eight of one store phase take rows two apart: these lie in different banks.
  static __device__ __forceinline__ int row_of(int group) {
    return Shape::kRowThreads >= 8 ? group : (group & ~3) | (group & 1) << 1 | (group >> 1 & 1);
  }

  static __device__ __forceinline__ void copy(T* shared, const T* global, bool inside) {
    __pipeline_memcpy_async(shared, global, 16, inside ? 0 : 16);
  }
};

// f(number, value) for every accumulator of a tile.
template <class Tile, class F>
__device__ __forceinline__ void for_each_sum(Tile& tile, F f) {
#pragma unroll
  for (int i = 0; i < Tile::kThreadRows; ++i)
#pragma unroll
    for (int g = 0; g < Tile::kGroups; ++g)
#pragma unroll
      for (int e = 0; e < Tile::kWidth; ++e) f((i * Tile::kGroups + g) * Tile::kWidth + e, tile.at(i, g)[e]);
}

template <class Shape>
__global__ void __launch_bounds__(kThreads, Shape::kBlocks)
    weight_gradient_kernel(const __grid_constant__ WeightGradient<typename Shape::Element> op) {
  using Tile = typename Shape::Tile;
  using T = typename Shape::Element;
  __shared__ __align__(16) T stages[2 * Shape::kDepth * Shape::kPitch];
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int depth_warp = warp / Shape::kTileWarps;
  const int row = warp % Shape::kTileWarps / Shape::kColumnWarps * Tile::kRows;
  const int column = warp % Shape::kColumnWarps * Tile::kColumns;

  Tile tile;
  for_each_sum(tile, [](int, T& sum) { sum = T(0); });
  T bias = T(0);
  Loader<Shape> loader(op);
  T* stage = stages;
  // The chunks of both pairs are one sequence, of which this split has an equal share.
  const int64_t chunks[2] = {ceil_div(op.pair[0].rows, int64_t(Shape::kDepth)),
                             ceil_div(op.pair[1].rows, int64_t(Shape::kDepth))};
  const int64_t first = (chunks[0] + chunks[1]) * blockIdx.z / gridDim.z;
  const int64_t last = (chunks[0] + chunks[1]) * (blockIdx.z + 1) / gridDim.z;
#pragma unroll 1
  for (int p = 0; p < 2; ++p) {
    const int64_t before = p == 0 ? 0 : chunks[0];
    const int64_t begin = max(first - before, int64_t(0)), end = min(last - before, p == 0 ? chunks[0] : chunks[1]);
    if (begin >= end) continue;
    loader.seek(op.pair[p], begin);
    loader.fetch(stage);
    __pipeline_commit();
#pragma unroll 1
    for (int remaining = static_cast<int>(end - begin); remaining > 0; --remaining) {
      T* const other = stage == stages ? stages + Shape::kDepth * Shape::kPitch : stages;
      __pipeline_wait_prior(0);
      __syncthreads();  // this chunk is here, and nobody reads the other stage any more
      if (remaining > 1) loader.fetch(other);
      __pipeline_commit();
      const T* const mine = stage + depth_warp * Shape::kWarpDepth * Shape::kPitch;
      tile.template multiply<Shape::kWarpDepth>(mine + row, mine + Shape::kRows + column, Shape::kPitch);
      if (p == 0 && blockIdx.x == 0)
        for (int r = thread / Shape::kRows; r < Shape::kDepth; r += kThreads / Shape::kRows)
          bias += stage[r * Shape::kPitch + thread % Shape::kRows];
      stage = other;
    }
  }

  T* const partial = op.partial + blockIdx.z * op.partial_size();
  const int block_row = static_cast<int>(blockIdx.y) * Shape::kRows;
  T* const sums = partial + int64_t(op.partial_columns()) * op.out_channels;  // of the bias, then of the slope
  if (blockIdx.x == 0) {
    __syncthreads();
    stages[thread] = bias;
    __syncthreads();
    if (thread < Shape::kRows && block_row + thread < op.out_channels) {
      for (int i = thread + Shape::kRows; i < kThreads; i += Shape::kRows) bias += stages[i];
      sums[block_row + thread] = bias;
    }
    if (blockIdx.y == 0) {
      T slope = T(0);
      const int64_t end = op.slope_term_count * (blockIdx.z + 1) / gridDim.z;
      for (int64_t i = op.slope_term_count * blockIdx.z / gridDim.z + thread; i < end; i += kThreads)
        slope += op.slope_terms[i];
      __syncthreads();
      slope = block_sum(slope, stages);
      if (thread == 0) sums[op.out_channels] = slope;
    }
  }
  if constexpr (Shape::kDepthWarps > 1) {
    constexpr int kTileSums = kWarp * Shape::kAccumulators;
    __syncthreads();
    if (depth_warp > 0)
      for_each_sum(tile,
                   [&](int i, T& sum) { stages[(warp - Shape::kTileWarps) * kTileSums + i * kWarp + lane] = sum; });
    __syncthreads();
    if (depth_warp > 0) return;
#pragma unroll 1
    for (int other = warp; other < kWarps - Shape::kTileWarps; other += Shape::kTileWarps)
      for_each_sum(tile, [&](int i, T& sum) { sum += stages[other * kTileSums + i * kWarp + lane]; });
  }
#pragma unroll
  for (int i = 0; i < Tile::kThreadRows; ++i) {
    const int out = block_row + row + Tile::row(i);
    if (out >= op.out_channels) continue;
#pragma unroll
    for (int g = 0; g < Tile::kGroups; ++g) {
      const int at = static_cast<int>(blockIdx.x) * Shape::kColumns + column + Tile::column(g);
      if (at >= op.partial_columns()) continue;
      T* const to = partial + int64_t(out) * op.partial_columns() + at;
      if constexpr (Tile::kWidth == kVector<T>) {
        Vector<T> sums;
#pragma unroll
        for (int e = 0; e < Tile::kWidth; ++e) sums[e] = tile.at(i, g)[e];
        store16(to, sums);
      } else {
#pragma unroll
        for (int e = 0; e < Tile::kWidth; ++e) to[e] = tile.at(i, g)[e];
      }
    }
  }
}

// The shapes: wide (the whole block is one tile), and three for narrow stages, whose warps share the rows.
enum { kWide, kNarrow, kFewRows, kFewColumns, kShapes };

template <class T, bool TENSOR, int SHAPE>
struct TileOf {
  using Type = OuterTile<T, SHAPE == kFewRows ? 2 : SHAPE == kFewColumns ? 16 : 4>;
};
template <int SHAPE>
struct TileOf<float, true, SHAPE> {
  static constexpr int kFragmentRows = SHAPE == kFewRows ? 1 : SHAPE == kFewColumns ? 8 : 2;
  using Type = TensorOuterTile<kFragmentRows, 16 / kFragmentRows>;
};
template <class T, bool TENSOR, int SHAPE>
using ShapeOf = BlockShape<typename TileOf<T, TENSOR, SHAPE>::Type, SHAPE == kWide ? 2 : 1, SHAPE == kWide ? 2 : 1>;

// The shape that computes least in vain, and of those the earliest.
template <class T>
struct Plan {
  int shape = 0, row_tiles = 0, column_tiles = 0, depth = 0;
  int64_t area = INT64_MAX;

  explicit Plan(const WeightGradient<T>& op) {
    consider<kWide>(op);
    consider<kNarrow>(op);
    consider<kFewRows>(op);
    consider<kFewColumns>(op);
  }
  template <int SHAPE>
  void consider(const WeightGradient<T>& op) {
    using Shape = ShapeOf<T, false, SHAPE>;  // tensor-core tiles of float32 are as large
    const int rows = ceil_div(op.out_channels, Shape::kRows), columns = ceil_div(op.partial_columns(), Shape::kColumns);
    const int64_t computed = int64_t(rows) * Shape::kRows * columns * Shape::kColumns;
    if (computed < area) *this = Plan(SHAPE, rows, columns, Shape::kDepth, computed);
  }

 private:
  Plan(int shape_, int row_tiles_, int column_tiles_, int depth_, int64_t area_)
      : shape(shape_), row_tiles(row_tiles_), column_tiles(column_tiles_), depth(depth_), area(area_) {}
};

template <class T, bool TENSOR, int SHAPE>
void launch(const WeightGradient<T>& op, const Plan<T>& plan, cudaStream_t stream) {
  const dim3 grid(plan.column_tiles, plan.row_tiles, op.splits);
  weight_gradient_kernel<ShapeOf<T, TENSOR, SHAPE>><<<grid, kThreads, 0, stream>>>(op);
}

template <class T, bool TENSOR>
void launch(const WeightGradient<T>& op, const Plan<T>& plan, cudaStream_t stream) {
  switch (plan.shape) {
    case kWide:
      return launch<T, TENSOR, kWide>(op, plan, stream);
    case kNarrow:
      return launch<T, TENSOR, kNarrow>(op, plan, stream);
    case kFewRows:
      return launch<T, TENSOR, kFewRows>(op, plan, stream);
    default:
      return launch<T, TENSOR, kFewColumns>(op, plan, stream);
  }
}

}  // namespace

template <class T>
int weight_gradient_splits(const WeightGradient<T>& op, const Card& card) {
  constexpr int kBlocksPerMultiprocessor = 2, kLeastChunks = 4;
  const Plan<T> plan(op);
  const int64_t chunks =
      ceil_div(op.pair[0].rows, int64_t(plan.depth)) + ceil_div(op.pair[1].rows, int64_t(plan.depth));
  const int64_t tiles = int64_t(plan.row_tiles) * plan.column_tiles;
  const int64_t wanted = kBlocksPerMultiprocessor * card.multiprocessors / tiles;
  return static_cast<int>(std::max<int64_t>(1, std::min(wanted, chunks / kLeastChunks)));
}

template <class T>
cudaError_t weight_gradient(const WeightGradient<T>& op, Precision precision, cudaStream_t stream) {
  const Plan<T> plan(op);
  // bfloat16 operands would not be faster: loads from shared memory, not the instruction, limit the tensor-core tile.
  if (std::is_same_v<T, float> && precision != Precision::kFull)
    launch<T, std::is_same_v<T, float>>(op, plan, stream);
  else
    launch<T, false>(op, plan, stream);
  return cudaPeekAtLastError();
}

template int weight_gradient_splits(const WeightGradient<float>&, const Card&);
template int weight_gradient_splits(const WeightGradient<double>&, const Card&);
template cudaError_t weight_gradient(const WeightGradient<float>&, Precision, cudaStream_t);
template cudaError_t weight_gradient(const WeightGradient<double>&, Precision, cudaStream_t);

}  // namespace irf::cuda
