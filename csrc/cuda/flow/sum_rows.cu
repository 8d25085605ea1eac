// The sum of the log-determinants of several steps, per sample, in the order of the steps.
#include "cuda/device/device.cuh"
#include "cuda/ops.h"

namespace irf::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) sum_rows_kernel(const T* values, int rows, int64_t columns, T* sum) {
  const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= columns) return;
  T total = T(0);
  for (int row = 0; row < rows; ++row) total += __ldg(values + row * columns + column);
  sum[column] = total;
}

template <class T>
struct SumRows {
  SumRowsOperands<T> op;

  cudaError_t launch(const Context& context) const {
    const auto blocks = static_cast<unsigned>(ceil_div(op.columns, int64_t(kThreads)));
    sum_rows_kernel<T><<<blocks, kThreads, 0, context.stream>>>(op.values, op.rows, op.columns, op.sum);
    return cudaGetLastError();
  }
};

}  // namespace

template <class T>
Operation sum_rows(const SumRowsOperands<T>& op, const Target& target) {
  return Operation(target, Workspace(), SumRows<T>{op});
}

template Operation sum_rows(const SumRowsOperands<float>&, const Target&);
template Operation sum_rows(const SumRowsOperands<double>&, const Target&);

}  // namespace irf::cuda
