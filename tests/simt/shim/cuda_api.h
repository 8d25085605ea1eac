// The part of the CUDA runtime that launch code may use. Every call is recorded; a call that allocates or waits fails
// on top of that, so that a test shows there is none.
#pragma once

#include <cstddef>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
using cudaStream_t = struct CUstream_st*;

namespace simt {
cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value);
[[noreturn]] void forbidden(const char* function);
}  // namespace simt

cudaError_t cudaFuncSetAttribute(auto* kernel, cudaFuncAttribute attribute, int value) {
  return simt::set_attribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);

#define SIMT_FORBIDDEN(function) \
  cudaError_t function(auto...) { simt::forbidden(#function); }
SIMT_FORBIDDEN(cudaMalloc)
SIMT_FORBIDDEN(cudaMallocAsync)
SIMT_FORBIDDEN(cudaFree)
SIMT_FORBIDDEN(cudaFreeAsync)
SIMT_FORBIDDEN(cudaMemcpy)
SIMT_FORBIDDEN(cudaMemset)
SIMT_FORBIDDEN(cudaStreamSynchronize)
SIMT_FORBIDDEN(cudaDeviceSynchronize)
