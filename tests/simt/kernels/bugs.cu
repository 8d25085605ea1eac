// Kernels with one planted bug each. Those that are right, launched wrongly: launches.cu.
#include <map>
#include <string>

#include "python_api.h"

namespace {

constexpr unsigned kAll = 0xffffffffu;

template <int B>
__global__ void no_barrier_in_loop(const float* in, float* out) {
  __shared__ float s[B];
  const int t = threadIdx.x;
  s[t] = in[t];
  __syncthreads();
  for (int o = B / 2; o > 0; o >>= 1) {
    if (t < o) s[t] += s[t + o];
  }
  if (t == 0) out[0] = s[0];
}

template <int B>
__global__ void no_barrier_after_store(const float* in, float* out) {
  __shared__ float s[B];
  const int t = threadIdx.x;
  s[t] = in[t];
  out[t] = s[B - 1 - t];
}

template <int B>
__global__ void write_after_read(const float* in, float* out, int tiles) {
  __shared__ float s[B];
  const int t = threadIdx.x;
  float sum = 0;
  for (int k = 0; k < tiles; k++) {
    s[t] = in[(k * B + t) % 64];
    __syncthreads();
    for (int j = 0; j < B; j++) sum += s[(t + j) % B] * (j + 1);
  }
  out[t] = sum;
}

__global__ void global_bounds(const float* in, float* out, int n) {
  const int g = blockIdx.x * blockDim.x + threadIdx.x;
  if (g <= n) out[g] = in[g];
}

__global__ void shared_bounds(const float* in, float* out) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  s[t + 1] = in[t];
  __syncthreads();
  out[t] = s[t > 0 ? t : 1];
}

__global__ void barrier_in_branch(const float* in, float* out) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  s[t] = in[t];
  if (t < 40) __syncthreads();
  out[t] = s[t];
}

__global__ void two_barriers(const float* in, float* out) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  s[t] = in[t];
  if (t < 32)
    __syncthreads();
  else
    __syncthreads();
  out[t] = s[63 - t];
}

__global__ void barrier_after_exit(const float* in, float* out, int n) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  if (t >= n) return;
  s[t] = in[t];
  __syncthreads();
  out[t] = s[t];
}

__global__ void uninitialised_shared(const float* in, float* out) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  if (t < 60) s[t] = in[t];
  __syncthreads();
  out[t] = s[63 - t];
}

__global__ void shuffle_mask(const float* in, float* out) {
  const int t = threadIdx.x;
  float v = in[t];
  if (t < 16) v += __shfl_down_sync(kAll, v, 8);
  out[t] = v;
}

__global__ void no_warp_barrier(const float* in, float* out) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  s[t] = in[t];
  s[t ^ 1] += 1.f;
  out[t] = s[t];
}

__global__ void blocks_without_atomic(const float* in, float* out) {
  if (blockIdx.x == 0) out[threadIdx.x] = 0;
  out[threadIdx.x] += in[threadIdx.x];
}

__global__ void copy_without_wait(const float* in, float* out) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  __pipeline_memcpy_async(&s[t], &in[t], 4);
  __pipeline_commit();
  __syncthreads();
  out[t] = s[t];
  __pipeline_wait_prior(0);
}

__global__ void misaligned_vector(const float* in, float* out) {
  const float4* p = reinterpret_cast<const float4*>(in + 1);
  const float4 q = p[threadIdx.x % 8];
  out[threadIdx.x] = q.x + q.w;
}

// The target held numbers before, so that a read that comes too early finds some.
__global__ void copy_over_old_values(const float* in, float* out) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  s[t] = 0;
  __syncthreads();
  __pipeline_memcpy_async(&s[t], &in[t], 4);
  __pipeline_commit();
  out[t] = s[t];
  __pipeline_wait_prior(0);
}

// Zero fill is part of the copy, and no earlier.
__global__ void fill_without_wait(const float* in, float* out) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  __pipeline_memcpy_async(&s[t], &in[t], 4, 4);
  __pipeline_commit();
  out[t] = s[t] + in[t];
  __pipeline_wait_prior(0);
}

__global__ void copy_before_read(const float* in, float* out) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  s[t] = in[t];
  __syncthreads();
  out[t] = s[t ^ 1];
  __pipeline_memcpy_async(&s[t], &in[t], 4);
  __pipeline_commit();
  __pipeline_wait_prior(0);
}

__global__ void wait_for_too_few(const float* in, float* out) {
  __shared__ float s[2][64];
  const int t = threadIdx.x;
  for (int k = 0; k < 2; ++k) {
    __pipeline_memcpy_async(&s[k][t], &in[t], 4);
    __pipeline_commit();
  }
  __pipeline_wait_prior(1);
  out[t] = s[0][t] + s[1][t];
}

__global__ void uninitialised_global(const float* in, float* out) {
  const int t = threadIdx.x;
  out[t] = t > 0 ? in[t] : out[63];
}

__global__ void unwritten(const float* in, float* out) {
  if (threadIdx.x != 17) out[threadIdx.x] = in[threadIdx.x];
}

__global__ void host_memory(const float* const* in, float* out) { out[threadIdx.x] = (*in)[threadIdx.x]; }

__global__ void write_to_input(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x];
  const_cast<float*>(in)[threadIdx.x] = 0;
}

using Case = void (*)(const float* in, float* out);
const std::map<std::string, Case> kCases = {
    {"no_barrier_in_loop", [](const float* in, float* out) { no_barrier_in_loop<64><<<1, 64>>>(in, out); }},
    {"no_barrier_after_store", [](const float* in, float* out) { no_barrier_after_store<64><<<1, 64>>>(in, out); }},
    {"write_after_read", [](const float* in, float* out) { write_after_read<64><<<1, 64>>>(in, out, 4); }},
    {"global_bounds", [](const float* in, float* out) { global_bounds<<<2, 64>>>(in, out, 64); }},
    {"shared_bounds", [](const float* in, float* out) { shared_bounds<<<1, 64>>>(in, out); }},
    {"barrier_in_branch", [](const float* in, float* out) { barrier_in_branch<<<1, 64>>>(in, out); }},
    {"two_barriers", [](const float* in, float* out) { two_barriers<<<1, 64>>>(in, out); }},
    {"barrier_after_exit", [](const float* in, float* out) { barrier_after_exit<<<1, 64>>>(in, out, 50); }},
    {"uninitialised_shared", [](const float* in, float* out) { uninitialised_shared<<<1, 64>>>(in, out); }},
    {"shuffle_mask", [](const float* in, float* out) { shuffle_mask<<<1, 64>>>(in, out); }},
    {"no_warp_barrier", [](const float* in, float* out) { no_warp_barrier<<<1, 64>>>(in, out); }},
    {"blocks_without_atomic", [](const float* in, float* out) { blocks_without_atomic<<<2, 64>>>(in, out); }},
    {"copy_without_wait", [](const float* in, float* out) { copy_without_wait<<<1, 64>>>(in, out); }},
    {"misaligned_vector", [](const float* in, float* out) { misaligned_vector<<<1, 64>>>(in, out); }},
    {"copy_over_old_values", [](const float* in, float* out) { copy_over_old_values<<<1, 64>>>(in, out); }},
    {"fill_without_wait", [](const float* in, float* out) { fill_without_wait<<<1, 64>>>(in, out); }},
    {"copy_before_read", [](const float* in, float* out) { copy_before_read<<<1, 64>>>(in, out); }},
    {"wait_for_too_few", [](const float* in, float* out) { wait_for_too_few<<<1, 64>>>(in, out); }},
    {"uninitialised_global", [](const float* in, float* out) { uninitialised_global<<<1, 64>>>(in, out); }},
    {"unwritten", [](const float* in, float* out) { unwritten<<<1, 64>>>(in, out); }},
    {"host_memory", [](const float* in, float* out) { host_memory<<<1, 64>>>(&in, out); }},
    {"write_to_input", [](const float* in, float* out) { write_to_input<<<1, 64>>>(in, out); }},
};

}  // namespace

extern "C" SIMT_EXPORT const char* planted(const char* bug, const float* in, float* out) {
  return simt::guarded([&] { kCases.at(bug)(in, out); });
}
