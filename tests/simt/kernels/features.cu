// Every form of CUDA C++ the emulator claims to know. Each function returns what test_features.py compares.
#include <cmath>
#include <vector>

#include "python_api.h"

namespace features {
namespace {

constexpr unsigned kAll = 0xffffffffu;

// A declaration with a comma in its type, another alignment, more than one extent.
template <class A, class B>
struct Pair {
  A first;
  B second;
};

template <class T, int Block>
__global__ void __launch_bounds__(Block, 1) sum(const T* __restrict__ in, T* out, int n) {
  __shared__ Pair<T, int> parts[2][Block / 64];
  T v = T(0);
#pragma unroll 4
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += __ldg(in + i);
  for (int o = 16; o > 0; o >>= 1) v += __shfl_down_sync(kAll, v, o);
  const int warp = threadIdx.x / warpSize;
  if (threadIdx.x % 32 == 0) parts[warp % 2][warp / 2] = {v, warp};
  __syncthreads();
  if (threadIdx.x < 32) {
    v = threadIdx.x < Block / 32 ? parts[threadIdx.x % 2][threadIdx.x / 2].first : T(0);
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(kAll, v, o);
    if (threadIdx.x == 0) atomicAdd(out, v);
  }
}

struct alignas(16) Params {
  const float* in;
  float* out;
  int numbers[1000];
};
static_assert(sizeof(Params) > 4000);

// Four kilobytes by value, dynamic shared memory, three dimensions.
__global__ void reverse(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) float buffer[];
  const int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z), n = p.numbers[999];
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  buffer[t] = p.in[block * n + t];
  __syncthreads();
  p.out[block * n + n - 1 - t] = buffer[t];
}

__global__ void collectives(const int* in, int* out) {
  const int t = threadIdx.x, lane = t % 32, v = in[t];
  int* mine = out + 16 * t;
  mine[0] = static_cast<int>(__ballot_sync(kAll, v & 1));
  mine[1] = __any_sync(kAll, v == 3) + 2 * __all_sync(kAll, v >= 0);
  mine[2] = __shfl_sync(kAll, v, 5);
  mine[3] = __shfl_up_sync(kAll, v, 3);
  mine[4] = __shfl_down_sync(kAll, v, 3, 8);
  mine[5] = __shfl_xor_sync(kAll, v, 7);
  mine[6] = __reduce_add_sync(kAll, v);
  mine[7] = __reduce_max_sync(kAll, v) * 1000 + __reduce_min_sync(kAll, v);
  // Halves of a warp apart.
  mine[8] = lane < 16 ? __shfl_sync(0xffffu, v, 15) : __shfl_sync(0xffff0000u, v, 16);
  mine[9] = __syncthreads_count(v & 1);
  mine[10] = __syncthreads_or(v == 63) + 2 * __syncthreads_and(v < 64);
  mine[11] = __popc(static_cast<unsigned>(v)) * 100 + __clz(v) + __ffs(v) * 10000;
  mine[12] = static_cast<int>(__activemask() == kAll);
  mine[13] = min(v, 7) + max(2u, 5);
  int all[32];
  simt::gather(&v, sizeof v, all, __FILE__, __LINE__);
  mine[14] = all[(lane + 1) % 32];
  mine[15] = 0;
}

__global__ void histogram(const int* in, int* counts, int n) {
  __shared__ int h[16];
  if (threadIdx.x < 16) h[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&h[in[i] & 15], 1);
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(counts + threadIdx.x, h[threadIdx.x]);
}

template <class T>
__global__ void functions(const T* in, T* out) {
  const T x = in[threadIdx.x];
  T s, c;
  sincos(x, &s, &c);
  out[threadIdx.x] =
      s * c + exp(x) + expm1(x) + log1p(fabs(x)) + rsqrt(fabs(x) + T(1)) + fma(x, x, T(1)) + max(x, T(0));
}

// Lanes that meet pairwise, at different times: only what a __syncwarp orders is ordered.
__global__ void pairs(const float* in, float* out) {
  __shared__ float s[32];
  const int t = threadIdx.x;
  const unsigned pair = 3u << (t & ~1);
  for (int k = 0; k < t / 2 + 1; ++k) {
    s[t] = in[t] + static_cast<float>(k);
    __syncwarp(pair);
    out[t] = s[t ^ 1];
    __syncwarp(pair);
  }
}

__global__ void store(float a, float b, float* out) {
  out[0] = a;
  out[1] = b;
}

}  // namespace

// Of two numbers: whether the host reads a NaN before it waits for the copy, and what it reads then.
inline void read_back(const float* in, float* out) {
  float* words;
  cudaEvent_t events[2];
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  cudaHostAlloc(reinterpret_cast<void**>(&words), 2 * sizeof(float), cudaHostAllocDefault);
  for (int i = 0; i < 2; ++i) {
    cudaEventCreateWithFlags(&events[i], cudaEventDisableTiming);
    cudaMemcpyAsync(words + i, in + i, sizeof(float), cudaMemcpyDeviceToHost, nullptr);
    cudaEventRecord(events[i], nullptr);
  }
  const float early = words[0];
  cudaEventSynchronize(events[0]);
  store<<<1, 1>>>(std::isnan(early), words[0], out);
  const float still_early = words[1];
  cudaEventSynchronize(events[1]);
  store<<<1, 1>>>(std::isnan(still_early), words[1], out + 2);
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  cudaFreeHost(words);
  cudaThreadExchangeStreamCaptureMode(&mode);
}

// A launch by a pointer, in a template.
template <class T, int Block>
void launch_sum(const T* in, T* out, int n) {
  cudaMemsetAsync(out, 0, sizeof(T));
  auto kernel = n > 100 ? sum<T, Block> : sum<T, 64>;
  if (n > 100)
    kernel<<<3, Block>>>(in, out, n);
  else
    sum<T, Block><<<(n + Block - 1) / Block, Block, 0, nullptr>>>(in, out, n);
}

}  // namespace features

extern "C" {
SIMT_EXPORT const char* sum_float(const float* in, float* out, int64_t n) {
  return simt::guarded([=] { features::launch_sum<float, 256>(in, out, int(n)); });
}
SIMT_EXPORT const char* sum_double(const double* in, double* out, int64_t n) {
  return simt::guarded([=] { features::launch_sum<double, 1024>(in, out, int(n)); });
}
SIMT_EXPORT const char* reverse(const float* in, float* out) {  // 12 blocks of 120
  return simt::guarded([=] {
    features::Params p{in, out, {}};
    p.numbers[999] = 120;
    features::reverse<<<dim3(2, 3, 2), dim3(4, 5, 6), 480>>>(p);
  });
}
SIMT_EXPORT const char* collectives(const int* in, int* out) {
  return simt::guarded([=] { features::collectives<<<1, 64>>>(in, out); });
}
SIMT_EXPORT const char* histogram(const int* in, int* out, int64_t n) {
  return simt::guarded([=] {
    cudaMemsetAsync(out, 0, 64);
    features::histogram<<<4, 64>>>(in, out, int(n));
  });
}
SIMT_EXPORT const char* functions_float(const float* in, float* out) {
  return simt::guarded([=] { features::functions<float><<<1, 32>>>(in, out); });
}
SIMT_EXPORT const char* functions_double(const double* in, double* out) {
  return simt::guarded([=] { features::functions<double><<<1, 32>>>(in, out); });
}
SIMT_EXPORT const char* read_back(const float* in, float* out) {
  return simt::guarded([=] { features::read_back(in, out); });
}
SIMT_EXPORT const char* pairs(const float* in, float* out) {
  return simt::guarded([=] { features::pairs<<<1, 32>>>(in, out); });
}
}
