#include "torch/cuda/device.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <map>
#include <mutex>

namespace irf::binding {
namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "the query of the GPU");
  return value;
}

// The limits of a GPU, asked for once: a call of an op then costs no query.
cuda::Card card_of(int device) {
  static std::mutex mutex;
  static std::map<int, cuda::Card> cards;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto known = cards.find(device);
  if (known != cards.end()) return known->second;
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "the query of the GPU");
  const cuda::Card card{
      "this GPU",
      10 * attribute(cudaDevAttrComputeCapabilityMajor, device) + attribute(cudaDevAttrComputeCapabilityMinor, device),
      attribute(cudaDevAttrMultiProcessorCount, device),
      attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
      attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
      static_cast<int64_t>(properties.totalGlobalMem),
      properties.l2CacheSize};
  return cards.emplace(device, card).first->second;
}

}  // namespace

void check_device(const Tensor& t, const char* name) { STD_TORCH_CHECK(t.is_cuda(), name, " must be a CUDA tensor"); }

Gpu gpu_of(const Tensor& t) {
  const int device = t.get_device_index();
  auto guard = std::make_shared<torch::stable::accelerator::DeviceGuard>(device);
  // The CUDA runtime is linked into this library: it has a current device of its own, besides torch's.
  check(cudaSetDevice(device), "cudaSetDevice");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  cuda::Card card = card_of(device);
  card.libraries = cudnn_takes(t);
  return {device, card, static_cast<cudaStream_t>(stream), guard};
}

Tensor scratch(size_t bytes, const Tensor& like) { return make({static_cast<int64_t>(bytes)}, like, ScalarType::Byte); }

void check(cudaError_t error, const char* op) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // else the next kernel of anybody would report it once more
  const char* advice = error == cudaErrorNoKernelImageForDevice
                           ? "; rebuild with TORCH_CUDA_ARCH_LIST naming the compute capability of this GPU"
                           : "";
  STD_TORCH_CHECK(false, "iresnet_fast: ", op, " failed on the GPU: ", cudaGetErrorString(error), advice, ".");
}

}  // namespace irf::binding
