// The products of a resident walk: weights that lie in shared memory or pass through it, and one stage, state to state.
#pragma once

#include "cuda/resident/block.cuh"

namespace irf::cuda {
namespace {

// Hands out the weights of one stage after the other. Stages whose weights are not kept in shared memory stream through
// two buffers, fetched one chunk ahead, across stages, repeats and groups alike.
template <class T>
class WeightFeed {
 public:
  __device__ WeightFeed(const ResidentPlan& plan, T* shared, const T* const* weights)
      : plan_(plan), shared_(shared), weights_(weights), stage_(-1), row_(0), buffer_(0) {
    for (int i = 0; i < plan.stages; ++i) {
      const StagePlan& stage = plan.stage[i];
      if (stage.weight != kNotShared)
        copy_async(shared + stage.weight, weights[i], stage.flat_rows * stage.column_pitch);
      else if (stage_ < 0)
        stage_ = i;
    }
    if (stage_ >= 0) fetch();
    __pipeline_commit();
  }

  // The next chunk of stage i. Holds the barrier that publishes the previous stage's state; the one that publishes
  // resident weights is the caller's, before the first stage.
  __device__ __forceinline__ const T* next(int i) {
    const int resident = plan_.stage[i].weight;
    if (resident != kNotShared) {
      __syncthreads();
      return shared_ + resident;
    }
    __pipeline_wait_prior(0);
    __syncthreads();  // the chunk is complete, and nobody reads the other buffer any more
    const T* chunk = shared_ + plan_.stream + (buffer_ ^ 1) * plan_.stream_size;
    fetch();
    __pipeline_commit();
    return chunk;
  }

 private:
  __device__ void fetch() {
    const StagePlan& stage = plan_.stage[stage_];
    const int left = stage.flat_rows - row_, rows = left < stage.chunk ? left : stage.chunk;
    copy_async(shared_ + plan_.stream + buffer_ * plan_.stream_size, weights_[stage_] + row_ * stage.column_pitch,
               rows * stage.column_pitch);
    buffer_ ^= 1;
    row_ += rows;
    if (row_ < stage.flat_rows) return;
    row_ = 0;
    do {
      stage_ = stage_ + 1 < plan_.stages ? stage_ + 1 : 0;
    } while (plan_.stage[stage_].weight != kNotShared);
  }

  const ResidentPlan& plan_;
  T* shared_;
  const T* const* weights_;
  int stage_, row_, buffer_;
};

// `WIDTH` adjacent elements: 16 bytes, or 8 where a tensor-core fragment holds two floats.
template <class T, int WIDTH>
__device__ __forceinline__ void load_group(T (&to)[WIDTH], const T* from) {
  if constexpr (WIDTH == kVector<T>) {
    const Vector<T> v = load16(from);
#pragma unroll
    for (int e = 0; e < WIDTH; ++e) to[e] = v[e];
  } else {
    const float2 v = *reinterpret_cast<const float2*>(from);
    to[0] = v.x, to[1] = v.y;
  }
}
template <class T, int WIDTH>
__device__ __forceinline__ void load_group_readonly(T (&to)[WIDTH], const T* from) {
  if constexpr (WIDTH == kVector<T>) {
    const Vector<T> v = load16_readonly(from);
#pragma unroll
    for (int e = 0; e < WIDTH; ++e) to[e] = v[e];
  } else {
    const float2 v = __ldg(reinterpret_cast<const float2*>(from));
    to[0] = v.x, to[1] = v.y;
  }
}
template <class T, int WIDTH>
__device__ __forceinline__ void store_group(T* to, const T (&from)[WIDTH]) {
  if constexpr (WIDTH == kVector<T>) {
    Vector<T> v;
#pragma unroll
    for (int e = 0; e < WIDTH; ++e) v[e] = from[e];
    store16(to, v);
  } else {
    *reinterpret_cast<float2*>(to) = make_float2(from[0], from[1]);
  }
}

// Epilogues: what is loaded for a group of columns of a row, and what is made of it.

// Times the derivatives, which lie in shared memory (local rows), in global memory (rows of the batch), or are ones.
template <class T>
struct ScaleByRows {
  const T *shared, *global;
  int pitch;

  template <int WIDTH>
  __device__ __forceinline__ void load(T (&factor)[WIDTH], const Rows& rows, int row, int column) const {
    if (shared) {
      load_group(factor, shared + rows.local(row) * pitch + column);
    } else if (global) {
      load_group_readonly(factor, global + static_cast<int64_t>(rows.global(row)) * pitch + column);
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
  __device__ __forceinline__ void load(T (&value)[WIDTH], const Rows&, int, int column) const {
    if (bias) {
      load_group(value, bias + column);
    } else {
#pragma unroll
      for (int e = 0; e < WIDTH; ++e) value[e] = T(0);
    }
  }
  __device__ __forceinline__ T apply(T sum, T value) const { return sum + value; }
};

// state <- epilogue(product of the state and the weights of stage `index`). The state is complete after the next
// barrier.
template <class Tile, class T, class Epilogue>
__device__ __forceinline__ void product_stage(const Block<T>& block, const Rows& rows, WeightFeed<T>& feed, int index,
                                              const Epilogue& epilogue) {
  constexpr int kRows = Tile::kThreadRows, kGroups = Tile::kGroups, kWidth = Tile::kWidth;
  const ResidentPlan& plan = block.plan;
  const StagePlan& stage = plan.stage[index];
  const int warp = thread_index() / kWarp, splits = stage.splits;
  const int tile = warp / splits, split = warp - tile * splits;
  const int column_tile = tile / stage.row_tiles, first_row = (tile - column_tile * stage.row_tiles) * Tile::kRows;
  const int first_column = column_tile * Tile::kColumns;
  const bool active = column_tile < stage.column_tiles;
  // The state has more padding than packed weights have columns: a tile beyond them reads the first and stores zeros.
  const int usable_column = first_column < stage.column_pitch ? first_column : 0;

  Tile sums;
  sums.clear();
  {
    int offset[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int at = active ? rows.state(first_row + Tile::row(i)) : 0;
      offset[i] = at >= 0 ? at : ~at;
    }
    const int K = stage.K_padded, radius = stage.kernel / 2;
    for (int first = 0; first < stage.flat_rows; first += stage.chunk) {
      const T* weights = feed.next(index) + usable_column;
      const int left = stage.flat_rows - first, units = (left < stage.chunk ? left : stage.chunk) / Tile::kDepth;
      int flat = first + units * split / splits * Tile::kDepth;
      const int end = active ? first + units * (split + 1) / splits * Tile::kDepth : 0;
      int k = flat % K, dy = flat / K / stage.kernel - radius, dx = flat / K % stage.kernel - radius;
      while (flat < end) {  // tap by tap
        const int depth = K - k < end - flat ? K - k : end - flat;
        sums.multiply(block.state() + (dy * plan.row_positions + dx) * plan.pitch + k, offset,
                      weights + (flat - first) * stage.column_pitch, stage.column_pitch,
                      stage.column_pitch - first_column, depth);
        flat += depth;
        k = 0;
        if (++dx > radius) dx = -radius, ++dy;
      }
    }
  }

  // Warps that split a reduction hand the rows they do not own to their owners.
  auto owner = [&](int i) { return i * splits / kRows; };
  T* exchange = block.shared + plan.exchange + thread_index() % kWarp * kWidth;
  auto partial = [&](int from, int i, int g) {
    return exchange + (((tile * (splits - 1) + from) * kRows + i) * kGroups + g) * (kWarp * kWidth);
  };
  if (splits > 1 && active) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (owner(i) == split) continue;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        T v[kWidth];
#pragma unroll
        for (int e = 0; e < kWidth; ++e) v[e] = sums.at(i, g)[e];
        store_group(partial(split - (split > owner(i)), i, g), v);
      }
    }
  }
  __syncthreads();  // nobody reads the state any more
  if (!active) return;
#pragma unroll 1
  for (int from = 0; from < splits - 1; ++from) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (owner(i) != split) continue;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        T other[kWidth];
        load_group(other, partial(from, i, g));
#pragma unroll
        for (int e = 0; e < kWidth; ++e) sums.at(i, g)[e] += other[e];
      }
    }
  }

  // A few rows at a time: all their loads before their stores, so that latencies overlap.
  constexpr int kMostRows = 64 / (kGroups * kWidth * static_cast<int>(sizeof(T)));
  constexpr int kBatch = kRows < kMostRows ? kRows : kMostRows;
#pragma unroll
  for (int first = 0; first < kRows; first += kBatch) {
    int to[kBatch];
    T operand[kBatch][kGroups][kWidth];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = first_row + Tile::row(first + i);
      to[i] = first + i < kRows && owner(first + i) == split ? rows.state(row) : -1;
#pragma unroll
      for (int g = 0; g < kGroups; ++g)
        if (to[i] >= 0 && first_column + Tile::column(g) < stage.N_padded)
          epilogue.load(operand[i][g], rows, row, first_column + Tile::column(g));
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= kRows || to[i] < 0) continue;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const int column = first_column + Tile::column(g);
        if (column >= stage.N_padded) continue;
        T v[kWidth];
#pragma unroll
        for (int e = 0; e < kWidth; ++e)  // zero: padding beyond the packed columns
          v[e] = column < stage.column_pitch ? epilogue.apply(sums.at(first + i, g)[e], operand[i][g][e]) : T(0);
        store_group(block.state() + to[i] + column, v);
      }
    }
  }
}

template <class Tiles, class T, class Epilogue>
__device__ __forceinline__ void any_product_stage(const Block<T>& block, WeightFeed<T>& feed, int index,
                                                  const Epilogue& epilogue) {
  const TileKind kind = block.plan.stage[index].tile;
  if constexpr (Tiles::kHasNarrow) {
    using Narrow = typename Tiles::template Tile<TileKind::kNarrow>;
    if (kind == TileKind::kNarrow) return product_stage<Narrow>(block, block.lane_rows(), feed, index, epilogue);
  }
  if constexpr (Tiles::kHasMid) {
    using Mid = typename Tiles::template Tile<TileKind::kMid>;
    if (kind == TileKind::kMid) return product_stage<Mid>(block, block.rows(), feed, index, epilogue);
  }
  using Wide = typename Tiles::template Tile<TileKind::kWide>;
  product_stage<Wide>(block, block.rows(), feed, index, epilogue);
}

}  // namespace
}  // namespace irf::cuda
