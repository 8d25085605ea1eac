// The kernel: a matrix product whose reduction runs over rows. Columns are (tap, input channel) pairs side by side, so
// narrow stages fill a tile with several taps. Rows are shared out over blocks (the splits) and, in the narrow shapes,
// over the warps of a block.
#pragma once

#include "cuda/device/block_sum.cuh"
#include "cuda/device/operand.cuh"
#include "cuda/device/outer_tile.cuh"
#include "cuda/layered/weight_gradient.h"

namespace irf::cuda {

// A block's tile: ROW_WARPS x COLUMN_WARPS warp tiles; the warps that remain share the rows of memory.
template <class TILE, int ROW_WARPS, int COLUMN_WARPS>
struct GradientShape {
  using Tile = TILE;
  using Element = typename Tile::Element;
  using Operand = typename Tile::Operand;
  static constexpr int kThreads = 128, kWarps = kThreads / kWarp;
  static constexpr int kColumnWarps = COLUMN_WARPS, kTileWarps = ROW_WARPS * COLUMN_WARPS;
  static constexpr int kDepthWarps = kWarps / kTileWarps;
  static constexpr int kRows = ROW_WARPS * Tile::kRows, kColumns = COLUMN_WARPS * Tile::kColumns;
  static constexpr int kWarpDepth = (kDepthWarps > 1 ? 8 : 16) * (sizeof(Operand) < 4 ? 2 : 1);
  static constexpr int kDepth = kDepthWarps * kWarpDepth;
  // A staged row: left, then right. 32 bytes more, or 8 Bf16: the pitch that tensor-core tiles ask for.
  static constexpr int kPitch = kRows + kColumns + (sizeof(Operand) == 8 ? 4 : 8);
  static constexpr int kPitchBytes = kPitch * static_cast<int>(sizeof(Operand));
  static constexpr int kAccumulators = Tile::kThreadRows * Tile::kGroups * Tile::kWidth;
  // Who copies: so many neighbouring threads a row, so many vectors each.
  static constexpr int kRowThreads = kThreads / kDepth;
  static constexpr int kLeftVectors = ceil_div(kRows / kVector<Operand>, kRowThreads);
  static constexpr int kRightVectors = ceil_div(kColumns / kVector<Operand>, kRowThreads);
  static constexpr int kBlocks = kRightVectors > 4 ? 2 : 3;  // a multiprocessor: more registers for more addresses
  static_assert((kDepthWarps - 1) * kWarp * kAccumulators * static_cast<int>(sizeof(Element)) <=
                    2 * kDepth * kPitchBytes,
                "sums are exchanged in the stages");
  static_assert(kRows <= kThreads, "a thread sums one column of the bias");
};

// The copies of one thread: always the same row of a chunk and the same columns.
template <class Shape>
struct GradientLoader {
  using T = typename Shape::Element;
  using Operand = typename Shape::Operand;
  static constexpr int kWidth = kVector<Operand>;

  const WeightGradient<T>& op;
  const int lane = static_cast<int>(threadIdx.x) % Shape::kRowThreads;
  const int chunk_row =
      copied_row<Shape::kRowThreads, Shape::kPitchBytes>(static_cast<int>(threadIdx.x) / Shape::kRowThreads);
  unsigned tap[Shape::kRightVectors];  // y << 16 | x, counted from the upper left one
  int offset[Shape::kRightVectors];
  const Operand *left, *right;
  int64_t rows_left;
  int y, x;  // of the pixel under the upper left tap
  const int step_y = Shape::kDepth / op.width % op.height, step_x = Shape::kDepth % op.width;  // to the next chunk

  __device__ __forceinline__ explicit GradientLoader(const WeightGradient<T>& op_) : op(op_) {
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
    left = operands(pair.left) + row * op.left_pitch + blockIdx.y * Shape::kRows;
    right = operands(pair.right) + row * op.right_pitch;
    rows_left = pair.rows - row;
    x = static_cast<int>(row % op.width) - op.kernel / 2;
    y = static_cast<int>(row / op.width % op.height) - op.kernel / 2;
  }

  // Copy this thread's part of the chunk and go to the next one.
  __device__ __forceinline__ void fetch(Operand* stage) {
    Operand* to = stage + chunk_row * Shape::kPitch;
#pragma unroll
    for (int i = 0; i < Shape::kLeftVectors; ++i) {
      const int column = (lane + i * Shape::kRowThreads) * kWidth;
      if (Shape::kRows % (Shape::kRowThreads * kWidth) != 0 && column >= Shape::kRows) break;
      const bool inside = rows_left > 0 && static_cast<int>(blockIdx.y) * Shape::kRows + column < op.out_channels;
      copy(to + column, inside ? left + column : operands(op.pair[0].left), inside);
    }
#pragma unroll
    for (int i = 0; i < Shape::kRightVectors; ++i) {
      const int column = (lane + i * Shape::kRowThreads) * kWidth;
      if (Shape::kColumns % (Shape::kRowThreads * kWidth) != 0 && column >= Shape::kColumns) break;
      const bool inside = rows_left > 0 && y + (tap[i] >> 16) < static_cast<unsigned>(op.height) &&
                          x + (tap[i] & 0xffff) < static_cast<unsigned>(op.width);
      copy(to + Shape::kRows + column, inside ? right + offset[i] : operands(op.pair[0].right), inside);
    }
    left += Shape::kDepth * op.left_pitch;
    right += Shape::kDepth * op.right_pitch;
    rows_left -= Shape::kDepth;
    x += step_x;
    y += step_y;
    if (x >= op.width - op.kernel / 2) x -= op.width, ++y;
    if (y >= op.height - op.kernel / 2) y -= op.height;
  }

  static __device__ const Operand* operands(const T* rows) { return reinterpret_cast<const Operand*>(rows); }

  static __device__ __forceinline__ void copy(Operand* shared, const Operand* global, bool inside) {
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

// The sums beside the weight's: `bias` over the threads of a column, and this split's share of the slope's terms.
template <class Shape, class T>
__device__ __forceinline__ void store_small_sums(const WeightGradient<T>& op, T bias, T* memory, T* to) {
  const int thread = static_cast<int>(threadIdx.x), out = static_cast<int>(blockIdx.y) * Shape::kRows + thread;
  __syncthreads();
  memory[thread] = bias;
  __syncthreads();
  if (thread < Shape::kRows && out < op.out_channels) {
    for (int i = thread + Shape::kRows; i < Shape::kThreads; i += Shape::kRows) bias += memory[i];
    to[out] = bias;
  }
  if (blockIdx.y > 0) return;
  T slope = T(0);
  const int64_t end = op.slope_term_count * (blockIdx.z + 1) / gridDim.z;
  for (int64_t i = op.slope_term_count * blockIdx.z / gridDim.z + thread; i < end; i += Shape::kThreads)
    slope += op.slope_terms[i];
  __syncthreads();
  slope = block_sum(slope, memory);
  if (thread == 0) to[op.out_channels] = slope;
}

// Stores a warp tile whose first sum belongs to `out` and `column`.
template <class Tile, class T>
__device__ __forceinline__ void store_tile(const WeightGradient<T>& op, Tile& tile, int out, int column, T* to) {
#pragma unroll
  for (int i = 0; i < Tile::kThreadRows; ++i) {
    if (out + Tile::row(i) >= op.out_channels) continue;
    T* const row = to + int64_t(out + Tile::row(i)) * op.partial_columns();
#pragma unroll
    for (int g = 0; g < Tile::kGroups; ++g) {
      const int at = column + Tile::column(g);
      if (at >= op.partial_columns()) continue;
      if constexpr (Tile::kWidth == kVector<T>) {
        Vector<T> sums;
#pragma unroll
        for (int e = 0; e < Tile::kWidth; ++e) sums[e] = tile.at(i, g)[e];
        store16(row + at, sums);
      } else {
#pragma unroll
        for (int e = 0; e < Tile::kWidth; ++e) row[at + e] = tile.at(i, g)[e];
      }
    }
  }
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    weight_gradient_kernel(const __grid_constant__ WeightGradient<typename Shape::Element> op) {
  using Tile = typename Shape::Tile;
  using T = typename Shape::Element;
  using Operand = typename Shape::Operand;
  __shared__ __align__(16) Operand stages[2 * Shape::kDepth * Shape::kPitch];
  T* const sums = reinterpret_cast<T*>(stages);  // in the same place, after all products
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int depth_warp = warp / Shape::kTileWarps;
  const int row = warp % Shape::kTileWarps / Shape::kColumnWarps * Tile::kRows;
  const int column = warp % Shape::kColumnWarps * Tile::kColumns;

  Tile tile;
  for_each_sum(tile, [](int, T& sum) { sum = T(0); });
  T bias = T(0);
  GradientLoader<Shape> loader(op);
  Operand* stage = stages;
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
      Operand* const other = stage == stages ? stages + Shape::kDepth * Shape::kPitch : stages;
      __pipeline_wait_prior(0);
      __syncthreads();  // this chunk is here, and nobody reads the other stage any more
      if (remaining > 1) loader.fetch(other);
      __pipeline_commit();
      const Operand* const mine = stage + depth_warp * Shape::kWarpDepth * Shape::kPitch;
      tile.template multiply<Shape::kWarpDepth>(mine + row, mine + Shape::kRows + column, Shape::kPitch);
      if (p == 0 && blockIdx.x == 0)
        for (int r = thread / Shape::kRows; r < Shape::kDepth; r += Shape::kThreads / Shape::kRows)
          bias += value_of(stage[r * Shape::kPitch + thread % Shape::kRows]);
      stage = other;
    }
  }

  T* const partial = op.partial + blockIdx.z * op.partial_size();
  if (blockIdx.x == 0)
    store_small_sums<Shape>(op, bias, sums, partial + int64_t(op.partial_columns()) * op.out_channels);
  if constexpr (Shape::kDepthWarps > 1) {  // warps with the same tile add up
    constexpr int kTileSums = kWarp * Shape::kAccumulators;
    __syncthreads();
    if (depth_warp > 0)
      for_each_sum(tile, [&](int i, T& sum) { sums[(warp - Shape::kTileWarps) * kTileSums + i * kWarp + lane] = sum; });
    __syncthreads();
    if (depth_warp > 0) return;
#pragma unroll 1
    for (int other = warp; other < Shape::kWarps - Shape::kTileWarps; other += Shape::kTileWarps)
      for_each_sum(tile, [&](int i, T& sum) { sum += sums[other * kTileSums + i * kWarp + lane]; });
  }
  store_tile(op, tile, static_cast<int>(blockIdx.y) * Shape::kRows + row,
             static_cast<int>(blockIdx.x) * Shape::kColumns + column, partial);
}

}  // namespace irf::cuda
