// A fixed order of the numbers of an event, and its transpose. A thread has one number of the index, for some samples.
#include <algorithm>

#include "cuda/device/device.cuh"
#include "cuda/ops.h"

namespace irf::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSamplesPerThread = 8;
constexpr int64_t kMostRows = 65535;  // of a grid

template <class T>
__global__ void __launch_bounds__(kThreads)
    rearrange_kernel(const T* x, const int64_t* index, int64_t size, bool transpose, int64_t batch, T unknown, T* z) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size) return;
  const int64_t other = __ldg(reinterpret_cast<const long long*>(index) + i);
  const bool known = 0 <= other && other < size;
  if (transpose && !known) return;
  const int64_t from = transpose ? i : other, to = transpose ? other : i;
#pragma unroll 4
  for (int64_t b = blockIdx.y; b < batch; b += gridDim.y)
    z[b * size + to] = known ? __ldg(x + b * size + from) : unknown;
}

template <class T>
struct Rearranged {
  RearrangeOperands<T> op;

  cudaError_t launch(const Context& context) const {
    const auto columns = static_cast<unsigned>(ceil_div(op.event_size, int64_t(kThreads)));
    const auto rows = static_cast<unsigned>(std::min(ceil_div(op.batch, kSamplesPerThread), kMostRows));
    rearrange_kernel<T><<<dim3(columns, rows), kThreads, 0, context.stream>>>(
        op.x, op.index, op.event_size, op.transpose, op.batch, std::numeric_limits<T>::quiet_NaN(), op.z);
    return cudaGetLastError();
  }
};

}  // namespace

template <class T>
Operation rearrange(const RearrangeOperands<T>& op, const Target& target) {
  return Operation(target, Workspace(), Rearranged<T>{op});
}

template Operation rearrange(const RearrangeOperands<float>&, const Target&);
template Operation rearrange(const RearrangeOperands<double>&, const Target&);

}  // namespace irf::cuda
