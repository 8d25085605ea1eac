// Stands in for csrc/torch/cuda/device.cpp: CPU tensors are the device memory, the emulator is the GPU. All else of
// csrc/torch runs as it is.
#include "torch/cuda/device.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "python_api.h"
#include "runtime.h"

namespace irf::binding {
namespace {

// An allocation as torch's allocator for GPUs makes it: kernels may count on an address of 256 bytes.
void* aligned(size_t bytes) { return std::aligned_alloc(256, (bytes + 256) / 256 * 256); }

// That of SIMT_CARD, by its name in cuda/device/card.h, or an H100.
const cuda::Card& card() {
  const char* wanted = std::getenv("SIMT_CARD");
  const std::string_view name = wanted ? wanted : "h100";
  for (const cuda::Card& known : cuda::kKnownCards)
    if (known.name == name) return known;
  throw std::logic_error("no card is called " + std::string(name));
}

}  // namespace

void check_device(const Tensor& t, const char* name) { STD_TORCH_CHECK(t.is_cpu(), name, " must be a CPU tensor"); }

Gpu gpu_of(const Tensor& t) {
  simt::begin_call();
  auto on = std::make_shared<simt::OnStream>(card().shared_per_block);
  cuda::Card with_libraries = card();
  with_libraries.libraries = cudnn_takes(t);
  return {0, with_libraries, on->stream, on};
}

Tensor scratch(size_t bytes, const Tensor&) {
  return torch::stable::from_blob(aligned(bytes), {static_cast<int64_t>(bytes)}, {1},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), ScalarType::Byte,
                                  [](void* memory) { std::free(memory); });
}

void check(cudaError_t error, const char* op) {
  STD_TORCH_CHECK(error == cudaSuccess, op, " failed: ", cudaGetErrorString(error));
}

}  // namespace irf::binding
