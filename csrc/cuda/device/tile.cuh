// A warp's tile of the product every kernel is made of, C[row][column] += sum_k A[row][k] B[k][column], with A and B in
// shared memory: A[row] at a + offset[i] + k, rows at a pitch of 4 * odd elements (so that the rows of one load phase
// lie in different banks); B[k] at b + k * pitch, columns adjacent.
//
// Both kinds of tile offer the same view of their accumulators: kThreadRows rows and kGroups groups of kWidth adjacent
// columns a thread; at(i, g) points to the group in row row(i) from column column(g) on. Of A a thread wants the
// offsets of the kLoadRows rows load_row(i). Rows of B are to be kPadding elements longer than a tile, rows of sums in
// shared memory kSumPadding: accesses then meet no bank twice.
#pragma once

#include "cuda/device/mma.cuh"
#include "cuda/device/pack.h"

namespace irf::cuda {

constexpr int kAllColumns = 1 << 30;

// FFMA (or DFMA) tile: ROWS x COLUMNS accumulators a thread, ROW_LANES lanes side by side along rows. 8 x 8 floats make
// 256 FFMA of 16 LDS.128.
template <class T, int ROWS, int COLUMNS, int ROW_LANES>
struct SimtTile {
  using Element = T;
  using Operand = T;
  static constexpr Precision kPrecision = Precision::kFull;
  static constexpr int kWidth = kVector<T>, kPadding = 0, kSumPadding = 0;
  static constexpr int kRowLanes = ROW_LANES, kColumnLanes = kWarp / ROW_LANES;
  static constexpr int kThreadRows = ROWS, kLoadRows = ROWS, kGroups = COLUMNS / kWidth;
  static constexpr int kRows = ROWS * kRowLanes, kColumns = COLUMNS * kColumnLanes;
  static constexpr int kDepth = 4;  // k advances by so much
  // Short steps share their addresses. (A single row is bound by its loads anyway.)
  static constexpr int kSums = ROWS * COLUMNS;
  static constexpr int kUnroll = sizeof(T) == 8 || kSums >= 56 || ROWS == 1 ? 1 : kSums >= 28 ? 2 : 4;

  T sum[ROWS][COLUMNS];

  static __device__ __forceinline__ int row(int i) {
    return i * kRowLanes + static_cast<int>(threadIdx.x) % kWarp / kColumnLanes;
  }
  static __device__ __forceinline__ int load_row(int i) { return row(i); }
  static __device__ __forceinline__ int column(int g) {
    return (g * kColumnLanes + static_cast<int>(threadIdx.x) % kColumnLanes) * kWidth;
  }
  __device__ __forceinline__ T* at(int i, int g) { return &sum[i][g * kWidth]; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) sum[i][j] = T(0);
  }

  // `depth` is a multiple of kDepth.
  __device__ __forceinline__ void multiply(const T* a, const int (&offset)[ROWS], const T* b, int pitch, int depth) {
    multiply(a, offset, b, pitch, kAllColumns, depth);
  }

  // Columns from `limit` (a multiple of kWidth) on read column 0 instead: their sums
  // are never used.
  __device__ __forceinline__ void multiply(const T* a, const int (&offset)[ROWS], const T* b, int pitch, int limit,
                                           int depth) {
    int column_offset[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) column_offset[g] = column(g) < limit ? column(g) : 0;
#pragma unroll kUnroll
    for (int k = 0; k < depth; k += kDepth) {
      T left[ROWS][kDepth];
#pragma unroll
      for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int h = 0; h < kDepth; h += kWidth) {
          const Vector<T> v = load16(a + offset[i] + k + h);
#pragma unroll
          for (int e = 0; e < kWidth; ++e) left[i][h + e] = v[e];
        }
#pragma unroll
      for (int h = 0; h < kDepth; ++h) {
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          const Vector<T> right = load16(b + (k + h) * pitch + column_offset[g]);
#pragma unroll
          for (int i = 0; i < ROWS; ++i)
#pragma unroll
            for (int e = 0; e < kWidth; ++e) sum[i][g * kWidth + e] += left[i][h] * right[e];
        }
      }
    }
  }
};

}  // namespace irf::cuda
