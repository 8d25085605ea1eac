// Kernels whose memory requests are known. test_counters.py names the lines that are marked.
#include "cuda/device/device.cuh"
#include "python_api.h"

namespace {

__global__ void copy(const float* in, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = in[i];  // copy
}

__global__ void copy_vectors(const float* in, float* out) {
  const int i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  irf::cuda::store16(out + i, irf::cuda::load16(in + i));  // vectors
}

__global__ void copy_strided(const float* in, float* out, int stride) {
  const int i = threadIdx.x;
  out[i] = in[i * stride];  // strided
}

// 32 x 32 by 32 x 8 threads.
template <int Pitch>
__global__ void transpose(const float* in, float* out) {
  __shared__ float tile[32][Pitch];
  const int x = threadIdx.x;
  for (int y = threadIdx.y; y < 32; y += 8) {
    const float v = in[y * 32 + x];
    tile[y][x] = v;  // rows
  }
  __syncthreads();
  for (int y = threadIdx.y; y < 32; y += 8) {
    const float v = tile[x][y];  // columns
    out[y * 32 + x] = v;
  }
}

// One warp reads `T`s from shared memory, each lane its own, after filling it through asynchronous copies.
template <class T>
__global__ void staged(const float* in, float* out) {
  __shared__ alignas(16) float s[128];
  const int t = threadIdx.x;
  __pipeline_memcpy_async(s + 4 * t, in + 4 * t, 16);  // staged copy
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
  const T v = *reinterpret_cast<const T*>(s + sizeof(T) / 4 * t);  // staged read
  out[t] = static_cast<float>(v);
}

}  // namespace

extern "C" SIMT_EXPORT const char* traffic(const char* name, const float* in, float* out) {
  return simt::guarded([=] {
    const std::string kernel = name;
    if (kernel == "copy") ::copy<<<4, 128>>>(in, out);
    if (kernel == "copy_vectors") copy_vectors<<<4, 32>>>(in, out);
    if (kernel == "copy_strided") copy_strided<<<1, 32>>>(in, out, 8);
    if (kernel == "transpose") transpose<32><<<1, dim3(32, 8)>>>(in, out);
    if (kernel == "transpose_padded") transpose<33><<<1, dim3(32, 8)>>>(in, out);
    if (kernel == "staged_float") staged<float><<<1, 32>>>(in, out);
    if (kernel == "staged_double") staged<double><<<1, 32>>>(in, out);
  });
}
