// One stage's product over all rows of a batch, layer by layer, as an implicit GEMM:
//   C[row][n] = sum_tap sum_k A[row shifted by tap][k] B[tap][k][n],   zero outside the image.
// A block owns 128 rows and a tile of columns. It walks the flat reduction (tap, k) in steps of 64 bytes a row, fetched
// two steps ahead of use; the shift of a tap lives in the address of the fetch. The sums then pass through shared
// memory to an epilogue, which sees rows as whole 16-byte vectors and so reads and writes global memory coalesced.
#pragma once

#include "cuda/device/group.cuh"
#include "cuda/device/pack.h"
#include "cuda/layered/epilogue_row.cuh"
#include "cuda/layered/product_fetch.cuh"
#include "cuda/plan/product.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

// Whether any item of these rows is active. A barrier, if `active` is given.
template <class T>
__device__ __forceinline__ bool any_active(const StageProduct<T>& product, int64_t first_row, int rows) {
  if (!product.active) return true;
  const int64_t last_row = first_row + rows < product.rows() ? first_row + rows - 1 : product.rows() - 1;
  const int64_t last = last_row / product.pixels();
  int active = 0;
  for (int64_t i = first_row / product.pixels() + threadIdx.x; i <= last; i += blockDim.x)
    active |= product.active[i] >= product.least;
  return __syncthreads_or(active);
}

template <class Shape, class Epilogue>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    stage_product_kernel(const StageProduct<typename Shape::T> product, Epilogue epilogue) {
  using T = typename Shape::T;
  using Tile = typename Shape::Tile;
  using Operand = typename Shape::Operand;
  __shared__ __align__(16) Operand memory[Shape::kBuffers * Shape::kBufferSize];

  const int column_tiles = ceil_div(product.columns, Shape::kColumns);
  const int first_column = static_cast<int>(blockIdx.x) % column_tiles * Shape::kColumns;
  const int64_t first_row = int64_t(static_cast<int>(blockIdx.x) / column_tiles) * Shape::kRows;
  if (!any_active(product, first_row, Shape::kRows)) return;

  ProductFetch<Shape> fetch(product, first_row, first_column);
#pragma unroll
  for (int i = 0; i + 1 < Shape::kBuffers; ++i) {
    fetch.next(memory + i * Shape::kBufferSize);
    __pipeline_commit();
  }
  const int warp_row = static_cast<int>(threadIdx.x) / kWarp * Tile::kRows;
  int offset[Tile::kLoadRows];
#pragma unroll
  for (int i = 0; i < Tile::kLoadRows; ++i) offset[i] = (warp_row + Tile::load_row(i)) * Shape::kPitchA;
  Tile tile;
  tile.clear();
  Operand *full = memory, *empty = memory + (Shape::kBuffers - 1) * Shape::kBufferSize;
  Operand* const end = memory + Shape::kBuffers * Shape::kBufferSize;
  for (int left = fetch.length(); left > 0; left -= Shape::kStep) {
    __pipeline_wait_prior(Shape::kBuffers - 2);
    __syncthreads();  // the step has arrived for all, and all are done with the buffer to be filled
    fetch.next(empty);
    __pipeline_commit();
    tile.multiply(full, offset, full + Shape::kRows * Shape::kPitchA, Shape::kPitchB,
                  left < Shape::kStep ? left : Shape::kStep);
    full = full + Shape::kBufferSize == end ? memory : full + Shape::kBufferSize;
    empty = empty + Shape::kBufferSize == end ? memory : empty + Shape::kBufferSize;
  }

  __syncthreads();  // the pipeline's memory is free; from here on every warp reads and writes its own rows only
  T* mine = reinterpret_cast<T*>(memory) + warp_row * Shape::kPitchSums;
#pragma unroll
  for (int i = 0; i < Tile::kThreadRows; ++i)
#pragma unroll
    for (int g = 0; g < Tile::kGroups; ++g)
      store_group<Tile::kWidth>(mine + Tile::row(i) * Shape::kPitchSums + Tile::column(g), tile.at(i, g));
  __syncwarp();
  constexpr int kRowsAtOnce = kWarp / Shape::kLanes, kUnroll = Epilogue::kUnroll;
  static_assert(Tile::kRows % (kRowsAtOnce * kUnroll) == 0, "whole rounds of rows");
  const int lane = static_cast<int>(threadIdx.x) % kWarp, lane_row = lane / Shape::kLanes;
  const int lane_column = lane % Shape::kLanes * kVector<T>, column = first_column + lane_column;
  RowWalk walk(first_row + warp_row + lane_row, kRowsAtOnce, product.pixels(), product.samples);
  const int64_t rows = product.rows();
  epilogue.begin();
#pragma unroll 1
  for (int i = lane_row; i < Tile::kRows; i += kRowsAtOnce * kUnroll) {
    RowPlace place[kUnroll];
    EpilogueRow<Epilogue> row[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      place[u] = walk.place;
      row[u].load(epilogue, place[u], column, place[u].row < rows && column < product.columns);
      walk.advance();
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      row[u].template apply<Shape::kLanes>(epilogue, place[u], column, place[u].row < rows && column < product.columns,
                                           load16(mine + (i + u * kRowsAtOnce) * Shape::kPitchSums + lane_column));
  }
}

template <class Tile, class Epilogue>
void launch_stage_product(const StageProduct<typename Tile::Element>& product, const Epilogue& epilogue, int splits,
                          cudaStream_t stream) {
  using Shape = BlockShape<Tile>;
  static_assert(Shape::kRows == kProductRows, "what plans count with");
  const int64_t blocks = ceil_div(product.rows(), int64_t(Shape::kRows)) * ceil_div(product.columns, Shape::kColumns);
  stage_product_kernel<Shape, Epilogue>
      <<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(splits)), Shape::kThreads, 0, stream>>>(product,
                                                                                                           epilogue);
}

// Instantiates eight kernels for an epilogue: three FFMA tiles, four of tensor cores, one of double.
template <class T, class Epilogue>
cudaError_t launch_tiles(const StageProduct<T>& product, const Epilogue& epilogue, const ProductPlan& plan,
                         Precision precision, cudaStream_t stream) {
  const int splits = plan.splits;
  if constexpr (sizeof(T) == 8) {
    launch_stage_product<SimtTile<double, 8, 4, 4>>(product, epilogue, splits, stream);
  } else if (precision == Precision::kTf32) {
    if (plan.columns == 16)
      launch_stage_product<FragmentTile<Precision::kTf32, 2, 2>>(product, epilogue, splits, stream);
    else
      launch_stage_product<FragmentTile<Precision::kTf32, 2, 8>>(product, epilogue, splits, stream);
  } else if (precision == Precision::kBf16) {
    if (plan.columns == 16)
      launch_stage_product<FragmentTile<Precision::kBf16, 2, 2>>(product, epilogue, splits, stream);
    else
      launch_stage_product<FragmentTile<Precision::kBf16, 2, 8>>(product, epilogue, splits, stream);
  } else if (plan.columns == 16) {
    launch_stage_product<SimtTile<float, 4, 4, 8>>(product, epilogue, splits, stream);
  } else if (plan.columns == 32) {
    launch_stage_product<SimtTile<float, 8, 4, 4>>(product, epilogue, splits, stream);
  } else {
    launch_stage_product<SimtTile<float, 8, 8, 4>>(product, epilogue, splits, stream);
  }
  return cudaGetLastError();
}

// The product of stage i of a branch, on all its samples or on `items` items of them: A_i h (forward form of the
// weights) or A_i^T r (transposed form).
template <class T>
StageProduct<T> product_of(const Branch<T>& branch, int i, bool transposed, Precision precision, const T* packed,
                           const T* a, int64_t items) {
  const Stage<T>& stage = branch.stage[i];
  const int K = transposed ? stage.out_channels : stage.in_channels;
  const int N = transposed ? stage.in_channels : stage.out_channels;
  StageProduct<T> product{};
  product.a = a;
  product.b = packed;
  product.depth = channel_pad(K, precision);
  product.pitch = column_pitch(N, precision, Packing::kOperands);
  product.columns = channel_pad(N, precision);
  product.kernel = stage.kernel;
  product.height = branch.dense() ? 1 : branch.height;
  product.width = branch.dense() ? 1 : branch.width;
  product.items = items;
  product.samples = branch.batch;
  return product;
}

}  // namespace irf::cuda
