// One product of a resident walk, from the state to the state, in three phases: every warp sums its part of the
// reduction; warps that share a tile exchange their partial sums; an epilogue turns the sums into the next state.
#pragma once

#include "cuda/device/group.cuh"
#include "cuda/resident/weights.cuh"

namespace irf::cuda {
namespace {

// ---- Epilogues: load() reads what belongs to a group of columns of a row, apply() makes a sum into the result ----

// Multiplies by derivatives, which lie in shared memory by local row, in global memory by row of the batch, or are
// ones.
template <class T>
struct ScaleByRows {
  const T *shared, *global;
  int pitch;

  template <int WIDTH>
  __device__ __forceinline__ void load(T (&factor)[WIDTH], const RowTable& rows, int row, int column) const {
    if (shared) {
      load_group<WIDTH>(factor, shared + rows.local(row) * pitch + column);
    } else if (global) {
      load_group_readonly<WIDTH>(factor, global + static_cast<int64_t>(rows.global(row)) * pitch + column);
    } else {
#pragma unroll
      for (int e = 0; e < WIDTH; ++e) factor[e] = T(1);
    }
  }
  __device__ __forceinline__ T apply(T sum, T factor) const { return sum * factor; }
};

template <class T>
struct AddBias {
  const T* bias;  // in shared memory; or null: none

  template <int WIDTH>
  __device__ __forceinline__ void load(T (&value)[WIDTH], const RowTable&, int, int column) const {
    if (bias) {
      load_group<WIDTH>(value, bias + column);
    } else {
#pragma unroll
      for (int e = 0; e < WIDTH; ++e) value[e] = T(0);
    }
  }
  __device__ __forceinline__ T apply(T sum, T value) const { return sum + value; }
};

// ---- The phases ----

// What a warp computes of a product: one tile, and of its reduction the part number `split` of `splits`. The warps of a
// tile are neighbours. Each of them finishes some of a thread's rows: it adds up their partial sums and stores them.
template <class Tile>
struct WarpTask {
  int tile, split, splits, first_row, first_column;
  bool active;  // false: there are fewer tasks than warps, and this warp only takes part in the barriers

  __device__ __forceinline__ explicit WarpTask(const StagePlan& stage) : splits(stage.splits) {
    const int warp = thread_index() / kWarp;
    tile = warp / splits;
    split = warp - tile * splits;
    const int column_tile = tile / stage.row_tiles;
    first_row = (tile - column_tile * stage.row_tiles) * Tile::kRows;
    first_column = column_tile * Tile::kColumns;
    active = column_tile < stage.column_tiles;
  }

  __device__ __forceinline__ int owner(int i) const { return i * splits / Tile::kThreadRows; }
};

// Phase 1. The flat reduction runs over taps and channels, flat row tap * K + k, in the chunks in which its weights
// come; each split takes an equal part of every chunk. Within a tap, the operands of a row are adjacent channels of the
// position that the tap shifts the row to. All warps must call this, since next() contains barriers.
template <class Tile, class T>
__device__ __forceinline__ void accumulate(Tile& sums, const WarpTask<Tile>& task, const Block<T>& block,
                                           const RowTable& rows, WeightStream<T>& stream, int index) {
  const ResidentPlan& plan = block.plan;
  const StagePlan& stage = plan.stage[index];
  // The state has more padding than packed weights have columns: a tile beyond them reads the first and stores zeros.
  const int usable_column = task.first_column < stage.column_pitch ? task.first_column : 0;
  int offset[Tile::kThreadRows];
#pragma unroll
  for (int i = 0; i < Tile::kThreadRows; ++i) {
    const int at = task.active ? rows.state(task.first_row + Tile::row(i)) : 0;
    offset[i] = at >= 0 ? at : ~at;
  }
  const int K = stage.K_padded, radius = stage.kernel / 2;
  for (int first = 0; first < stage.flat_rows; first += stage.chunk) {
    const T* weights = stream.next(index) + usable_column;
    const int left = stage.flat_rows - first, units = (left < stage.chunk ? left : stage.chunk) / Tile::kDepth;
    int flat = first + units * task.split / task.splits * Tile::kDepth;
    const int end = task.active ? first + units * (task.split + 1) / task.splits * Tile::kDepth : 0;
    int k = flat % K, dy = flat / K / stage.kernel - radius, dx = flat / K % stage.kernel - radius;
    while (flat < end) {  // tap by tap
      const int depth = K - k < end - flat ? K - k : end - flat;
      sums.multiply(block.state() + (dy * plan.row_positions + dx) * plan.pitch + k, offset,
                    weights + (flat - first) * stage.column_pitch, stage.column_pitch,
                    stage.column_pitch - task.first_column, depth);
      flat += depth;
      k = 0;
      if (++dx > radius) dx = -radius, ++dy;
    }
  }
}

// Phase 2. The partial sums of a tile in shared memory: of every row of every thread, those of the splits that do not
// own it, in the order of the splits. Lanes lie side by side, which keeps accesses free of bank conflicts.
template <class Tile, class T>
struct PartialSums {
  static constexpr int kRows = Tile::kThreadRows, kGroups = Tile::kGroups, kWidth = Tile::kWidth;
  T* exchange;
  const WarpTask<Tile>& task;

  __device__ __forceinline__ PartialSums(const Block<T>& block, const WarpTask<Tile>& task_)
      : exchange(block.shared + block.plan.exchange + thread_index() % kWarp * kWidth), task(task_) {}

  __device__ __forceinline__ T* at(int from, int i, int g) const {
    return exchange + (((task.tile * (task.splits - 1) + from) * kRows + i) * kGroups + g) * (kWarp * kWidth);
  }

  // Stores the sums of the rows that other splits own.
  __device__ __forceinline__ void give(Tile& sums) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (task.owner(i) == task.split) continue;
#pragma unroll
      for (int g = 0; g < kGroups; ++g)
        store_group<kWidth>(at(task.split - (task.split > task.owner(i)), i, g), sums.at(i, g));
    }
  }

  // After a barrier: adds the other splits' sums to the rows that this one owns.
  __device__ __forceinline__ void take(Tile& sums) const {
#pragma unroll 1
    for (int from = 0; from < task.splits - 1; ++from) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (task.owner(i) != task.split) continue;
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          T other[kWidth];
          load_group<kWidth>(other, at(from, i, g));
#pragma unroll
          for (int e = 0; e < kWidth; ++e) sums.at(i, g)[e] += other[e];
        }
      }
    }
  }
};

// Phase 3. The rows that this split owns go through the epilogue into the state, a few rows at a time: all their loads
// come before their stores, so that latencies overlap.
template <class Tile, class T, class Epilogue>
__device__ __forceinline__ void store_state(Tile& sums, const WarpTask<Tile>& task, const Block<T>& block,
                                            const RowTable& rows, const StagePlan& stage, const Epilogue& epilogue) {
  constexpr int kRows = Tile::kThreadRows, kGroups = Tile::kGroups, kWidth = Tile::kWidth;
  constexpr int kMostRows = 64 / (kGroups * kWidth * static_cast<int>(sizeof(T)));
  constexpr int kBatch = kRows < kMostRows ? kRows : kMostRows;
#pragma unroll
  for (int first = 0; first < kRows; first += kBatch) {
    int to[kBatch];
    T operand[kBatch][kGroups][kWidth];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = task.first_row + Tile::row(first + i);
      to[i] = first + i < kRows && task.owner(first + i) == task.split ? rows.state(row) : -1;
#pragma unroll
      for (int g = 0; g < kGroups; ++g)
        if (to[i] >= 0 && task.first_column + Tile::column(g) < stage.N_padded)
          epilogue.load(operand[i][g], rows, row, task.first_column + Tile::column(g));
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= kRows || to[i] < 0) continue;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const int column = task.first_column + Tile::column(g);
        if (column >= stage.N_padded) continue;
        T v[kWidth];
#pragma unroll
        for (int e = 0; e < kWidth; ++e)  // zero: padding beyond the packed columns
          v[e] = column < stage.column_pitch ? epilogue.apply(sums.at(first + i, g)[e], operand[i][g][e]) : T(0);
        store_group<kWidth>(block.state() + to[i] + column, v);
      }
    }
  }
}

// state <- epilogue(product of the state and the weights of stage `index`). The state is complete after the next
// barrier.
template <class Tile, class T, class Epilogue>
__device__ __forceinline__ void product_stage(const Block<T>& block, const RowTable& rows, WeightStream<T>& stream,
                                              int index, const Epilogue& epilogue) {
  const StagePlan& stage = block.plan.stage[index];
  const WarpTask<Tile> task(stage);
  Tile sums;
  sums.clear();
  accumulate(sums, task, block, rows, stream, index);
  const PartialSums<Tile, T> partial(block, task);
  if (task.splits > 1 && task.active) partial.give(sums);
  __syncthreads();  // nobody reads the state any more, and the partial sums are complete
  if (!task.active) return;
  partial.take(sums);
  store_state(sums, task, block, rows, stage, epilogue);
}

// product_stage with the tile that the plan has chosen.
template <class Tiles, class T, class Epilogue>
__device__ __forceinline__ void any_product_stage(const Block<T>& block, WeightStream<T>& stream, int index,
                                                  const Epilogue& epilogue) {
  const TileKind kind = block.plan.stage[index].tile;
  if constexpr (Tiles::kHasNarrow) {
    using Narrow = typename Tiles::template Tile<TileKind::kNarrow>;
    if (kind == TileKind::kNarrow) return product_stage<Narrow>(block, block.lane_rows(), stream, index, epilogue);
  }
  if constexpr (Tiles::kHasMid) {
    using Mid = typename Tiles::template Tile<TileKind::kMid>;
    if (kind == TileKind::kMid) return product_stage<Mid>(block, block.rows(), stream, index, epilogue);
  }
  using Wide = typename Tiles::template Tile<TileKind::kWide>;
  product_stage<Wide>(block, block.rows(), stream, index, epilogue);
}

}  // namespace
}  // namespace irf::cuda
