// The second kernel of a product that leaves its sums in memory: it gathers the pieces of every row of the result in a
// fixed order, tap by tap within each split, and runs the epilogue that the product would have run.
//
// Row (y, x) of the result takes, of tap (i, j) of a 3 x 3 kernel, the piece that row (y + i - 1, x + j - 1) left for
// that tap; a row outside the image left none, which counts as zeros.
#pragma once

#include "cuda/device/context.h"
#include "cuda/layered/epilogue_row.cuh"
#include "cuda/layered/product_fetch.cuh"
#include "cuda/plan/product.h"

namespace irf::cuda {

constexpr int kGatherThreads = 128;

template <class T>
struct GatheredSums {
  const T* sums;  // [splits][rows][pitch], pitch = taps * columns: the pieces of a row for each tap side by side
  int splits;
  int pitch;
  int kernel;  // 1: the product is complete but for its splits
};

// Puts the product itself on the stream, and says where it leaves its sums.
template <class T>
cudaError_t put_sums(const StageProduct<T>& product, const ProductPlan& plan, const Context& context,
                     GatheredSums<T>& sums);

// LANES adjacent lanes hold part of a row, one vector of 16 bytes each.
template <class T, int LANES, class Epilogue>
__global__ void __launch_bounds__(kGatherThreads, 6)
    gather_sums_kernel(const StageProduct<T> product, const GatheredSums<T> sums, Epilogue epilogue) {
  constexpr int kRows = kGatherThreads / LANES, kColumns = LANES * kVector<T>;
  const int thread = static_cast<int>(threadIdx.x);
  // Of 32 bits (plan_product sees to it), since 64-bit divisions are function calls.
  const unsigned rows = static_cast<unsigned>(product.rows()), pixels = static_cast<unsigned>(product.pixels());
  const unsigned row = blockIdx.x * kRows + static_cast<unsigned>(thread / LANES), item = row / pixels;
  const RowPlace place(item, item % static_cast<unsigned>(product.samples), static_cast<int>(row % pixels),
                       product.pixels());
  const int column = static_cast<int>(blockIdx.y) * kColumns + thread % LANES * kVector<T>;
  // What inactive items leave is not complete, and whole warps must take part in the epilogue.
  const bool inside =
      row < rows && column < product.columns && (!product.active || product.active[place.item] >= product.least);
  epilogue.begin();
  EpilogueRow<Epilogue> part;
  part.load(epilogue, place, column, inside);
  Vector<T> total = zero16<T>();
  const int reach = sums.kernel / 2, y = place.pixel / product.width - reach, x = place.pixel % product.width - reach;
  const T* split = sums.sums + (place.row - reach * product.width - reach) * sums.pitch + column;
#pragma unroll 1
  for (int s = 0; s < sums.splits; ++s) {
    const T* from = split;
#pragma unroll 1
    for (int i = 0; i < sums.kernel; ++i) {
#pragma unroll 3
      for (int j = 0; j < sums.kernel; ++j) {
        const bool exists = inside && static_cast<unsigned>(y + i) < static_cast<unsigned>(product.height) &&
                            static_cast<unsigned>(x + j) < static_cast<unsigned>(product.width);
        const Vector<T> piece = exists ? load16_readonly(from) : zero16<T>();
#pragma unroll
        for (int e = 0; e < kVector<T>; ++e) total[e] += piece[e];
        from += sums.pitch + product.columns;
      }
      from += (product.width - sums.kernel) * sums.pitch;
    }
    split += int64_t(rows) * sums.pitch;
  }
  part.template apply<LANES>(epilogue, place, column, inside, total);
}

template <class T, class Epilogue>
cudaError_t gather_sums(const StageProduct<T>& product, const GatheredSums<T>& sums, const ProductPlan& plan,
                        const Epilogue& epilogue, cudaStream_t stream) {
  const int lanes = plan.epilogue_columns / kVector<T>;
  const dim3 grid(static_cast<unsigned>(ceil_div(product.rows(), int64_t(kGatherThreads / lanes))),
                  static_cast<unsigned>(ceil_div(product.columns, plan.epilogue_columns)));
  if (lanes == 4)
    gather_sums_kernel<T, 4, Epilogue><<<grid, kGatherThreads, 0, stream>>>(product, sums, epilogue);
  else
    gather_sums_kernel<T, 16, Epilogue><<<grid, kGatherThreads, 0, stream>>>(product, sums, epilogue);
  return cudaGetLastError();
}

}  // namespace irf::cuda
