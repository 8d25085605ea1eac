// A warp's tile of a sum of outer products, C[m][n] += sum_r A[r][m] B[r][n]: the reduction runs over rows and the
// columns of a row are adjacent in shared memory, for both operands. A[r] is at a + r * pitch, B[r] at b + r * pitch.
//
// Accumulators are seen as those of device/tile.cuh: at(i, g) points to kWidth adjacent columns from column(g) on of
// row(i).
#pragma once

#include "cuda/device/mma.cuh"

namespace irf::cuda {

// FFMA (or DFMA) tile: two vectors of rows by two of columns a thread. 8 x 8 floats make 64 FFMA of 4 LDS.128. All
// lanes read the same row of shared memory: no pitch gives bank conflicts.
template <class T, int ROW_LANES>
struct OuterTile {
  using Element = T;
  static constexpr int kWidth = kVector<T>, kThreadRows = 2 * kWidth, kGroups = 2;
  static constexpr int kRowLanes = ROW_LANES, kColumnLanes = kWarp / ROW_LANES;
  static constexpr int kRows = kThreadRows * kRowLanes, kColumns = kGroups * kWidth * kColumnLanes;

  T sum[kThreadRows][kGroups * kWidth];

  static __device__ __forceinline__ int row(int i) {
    return (i / kWidth * kRowLanes + static_cast<int>(threadIdx.x) % kWarp / kColumnLanes) * kWidth + i % kWidth;
  }
  static __device__ __forceinline__ int column(int g) {
    return (g * kColumnLanes + static_cast<int>(threadIdx.x) % kColumnLanes) * kWidth;
  }
  __device__ __forceinline__ T* at(int i, int g) { return &sum[i][g * kWidth]; }

  template <int DEPTH>
  __device__ __forceinline__ void multiply(const T* a, const T* b, int pitch) {
    a += row(0);
    b += column(0);
#pragma unroll 4
    for (int r = 0; r < DEPTH; ++r) {
      Vector<T> left[2], right[2];
#pragma unroll
      for (int g = 0; g < 2; ++g) {
        left[g] = load16(a + r * pitch + g * kRowLanes * kWidth);
        right[g] = load16(b + r * pitch + g * kColumnLanes * kWidth);
      }
#pragma unroll
      for (int i = 0; i < kThreadRows; ++i)
#pragma unroll
        for (int j = 0; j < kGroups * kWidth; ++j)
          sum[i][j] += left[i / kWidth][i % kWidth] * right[j / kWidth][j % kWidth];
    }
  }
};

// Tensor-core tile of FRAGMENT_ROWS x FRAGMENT_COLUMNS fragments of 16 x 8, operands rounded to TF32 as they leave
// shared memory. The pitch is 8 * odd: the four rows of a fragment load then lie in different banks.
template <int FRAGMENT_ROWS, int FRAGMENT_COLUMNS>
struct TensorOuterTile {
  using Element = float;
  static constexpr int kWidth = 2, kThreadRows = 2 * FRAGMENT_ROWS, kGroups = FRAGMENT_COLUMNS;
  static constexpr int kRows = 16 * FRAGMENT_ROWS, kColumns = 8 * FRAGMENT_COLUMNS;

  float sum[FRAGMENT_ROWS][FRAGMENT_COLUMNS][4];

  static __device__ __forceinline__ int row(int i) { return i * 8 + static_cast<int>(threadIdx.x) % kWarp / 4; }
  static __device__ __forceinline__ int column(int g) { return g * 8 + static_cast<int>(threadIdx.x) % 4 * 2; }
  __device__ __forceinline__ float* at(int i, int g) { return &sum[i / 2][g][i % 2 * 2]; }

  template <int DEPTH>
  __device__ __forceinline__ void multiply(const float* a, const float* b, int pitch) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    a += lane % 4 * pitch + lane / 4;
    b += lane % 4 * pitch + lane / 4;
#pragma unroll 1
    for (int r = 0; r < DEPTH; r += 8) {
      unsigned left[FRAGMENT_ROWS][4];
#pragma unroll
      for (int i = 0; i < FRAGMENT_ROWS; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) left[i][e] = to_tf32(a[(r + e / 2 * 4) * pitch + 16 * i + e % 2 * 8]);
#pragma unroll
      for (int j = 0; j < FRAGMENT_COLUMNS; ++j) {
        const unsigned right[2] = {to_tf32(b[r * pitch + 8 * j]), to_tf32(b[(r + 4) * pitch + 8 * j])};
#pragma unroll
        for (int i = 0; i < FRAGMENT_ROWS; ++i) mma_tf32(sum[i][j], left[i], right);
      }
    }
  }
};

}  // namespace irf::cuda
