// Kernels without a bug, launched wrongly, or rightly, and what the host must not do around them.
#include <map>
#include <string>

#include "python_api.h"

namespace {

__global__ void copy_dynamic(const float* in, float* out) {
  extern __shared__ float s[];
  const int t = threadIdx.x;
  s[t] = in[t];
  __syncthreads();
  out[t] = s[t];
}

__global__ void none(const float* in, float* out) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  s[t] = in[t];
  __syncwarp();
  const float a = s[t ^ 1];
  __syncthreads();
  s[63 - t] = a;
  __syncthreads();
  __pipeline_memcpy_async(&s[63 - t], &in[t], 4, t % 2 * 4);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
  out[t] = s[t];
}

__global__ void array(const float* in, float* out) {
  __shared__ float s[64];
  s[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = s[threadIdx.x];
}

__global__ void large_array(const float* in, float* out) {
  __shared__ float s[12289];
  s[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = s[threadIdx.x];
}

void set_capture_mode(cudaStreamCaptureMode mode) { cudaThreadExchangeStreamCaptureMode(&mode); }

void wait_for_a_kernel(const float* in, float* out) {
  cudaEvent_t event;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  none<<<1, 64>>>(in, out);
  cudaEventRecord(event, nullptr);
  cudaEventSynchronize(event);
  cudaEventDestroy(event);
}

using Case = void (*)(const float* in, float* out);
const std::map<std::string, Case> kLaunches = {
    {"no_blocks", [](const float* in, float* out) { copy_dynamic<<<0, 64, 256>>>(in, out); }},
    {"too_many_threads", [](const float* in, float* out) { copy_dynamic<<<1, 1025, 4100>>>(in, out); }},
    {"no_dynamic_shared", [](const float* in, float* out) { copy_dynamic<<<1, 64>>>(in, out); }},
    {"shared_over_48_kb", [](const float* in, float* out) { copy_dynamic<<<1, 64, 49156>>>(in, out); }},
    {"shared_over_the_card",
     [](const float* in, float* out) {
       const auto error = cudaFuncSetAttribute(copy_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 232452);
       if (error == cudaErrorInvalidValue) copy_dynamic<<<1, 64, 232452>>>(in, out);
     }},
    {"shared_of_any_size",  // no bug
     [](const float* in, float* out) {
       cudaFuncSetAttribute(copy_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 232448);
       copy_dynamic<<<1, 64, 232448>>>(in, out);
     }},
    {"allowed_more_than_the_card_has",
     [](const float* in, float* out) {
       cudaFuncSetAttribute(array, cudaFuncAttributeMaxDynamicSharedMemorySize, 232448);
       array<<<1, 64>>>(in, out);
     }},
    {"static_shared_over_48_kb", [](const float* in, float* out) { large_array<<<1, 64>>>(in, out); }},
    {"two_launches",  // no bug: one follows the other
     [](const float* in, float* out) {
       copy_dynamic<<<1, 64, 256>>>(in, out);
       none<<<1, 64>>>(in, out);
     }},
    {"allocation",
     [](const float* in, float* out) {
       void* scratch;
       cudaMalloc(&scratch, 64);
       none<<<1, 64>>>(in, out);
     }},
    {"synchronisation",
     [](const float* in, float* out) {
       none<<<1, 64>>>(in, out);
       cudaStreamSynchronize(nullptr);
     }},
    {"other_stream",
     [](const float* in, float* out) {
       const simt::OnStream on(232448);
       none<<<1, 64>>>(in, out);
     }},
    {"copy_to_memory_that_can_be_paged",
     [](const float* in, float*) {
       float word;
       cudaMemcpyAsync(&word, in, 4, cudaMemcpyDeviceToHost, nullptr);
     }},
    {"copy_over_a_copy",
     [](const float* in, float*) {
       void* word;
       set_capture_mode(cudaStreamCaptureModeRelaxed);
       cudaHostAlloc(&word, 4, cudaHostAllocDefault);
       for (int i = 0; i < 2; ++i) cudaMemcpyAsync(word, in + i, 4, cudaMemcpyDeviceToHost, nullptr);
     }},
    {"wait",  // no bug but in a capture
     [](const float* in, float* out) {
       set_capture_mode(cudaStreamCaptureModeRelaxed);
       wait_for_a_kernel(in, out);
       set_capture_mode(cudaStreamCaptureModeGlobal);
     }},
    {"wait_beside_a_capture", wait_for_a_kernel},
    {"allocation_beside_a_capture",
     [](const float*, float*) {
       void* word;
       cudaHostAlloc(&word, 4, cudaHostAllocDefault);
     }},
    {"capture_mode_left_behind",
     [](const float* in, float* out) {
       set_capture_mode(cudaStreamCaptureModeRelaxed);
       none<<<1, 64>>>(in, out);
     }},
    {"none", [](const float* in, float* out) { none<<<1, 64>>>(in, out); }},
};

}  // namespace

extern "C" SIMT_EXPORT const char* launched(const char* how, const float* in, float* out) {
  return simt::guarded([&] { kLaunches.at(how)(in, out); });
}
