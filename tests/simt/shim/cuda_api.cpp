// The CUDA runtime of the emulator and the log of its calls.
#include <map>
#include <utility>

#include "runtime.h"

namespace simt {
namespace {

std::string calls;
std::map<const void*, size_t> dynamic_limits;
cudaError_t last_error = cudaSuccess;

void begin(const char* name, size_t bytes, cudaStream_t stream) {
  record(name + ("|" + std::to_string(bytes)));
  if (config.stream && stream != config.stream) fail(std::string(name) + ": not on the stream of the caller");
}

}  // namespace

void record(const std::string& call) { calls += call + "\n"; }
const std::string& recorded_calls() { return calls; }

void begin_call() {
  calls.clear();
  dynamic_limits.clear();  // attributes belong to one device of several: a launch function sets what it needs each time
  last_error = cudaSuccess;
}

size_t dynamic_shared_limit(const void* kernel) {
  const auto found = dynamic_limits.find(kernel);
  return found == dynamic_limits.end() ? kDefaultShared : found->second;
}

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  record("cudaFuncSetAttribute|" + std::to_string(attribute) + "|" + std::to_string(value));
  if (value < 0 || size_t(value) > config.shared_limit) return last_error = cudaErrorInvalidValue;
  dynamic_limits[kernel] = value;
  return cudaSuccess;
}

void forbidden(const char* function) {
  record(function);
  fail(std::string(function) + " is forbidden: launch functions neither allocate nor wait");
}

}  // namespace simt

cudaError_t cudaGetLastError() { return std::exchange(simt::last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return simt::last_error; }
const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "invalid argument"; }

cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream) {
  simt::begin("cudaMemsetAsync", bytes, stream);
  if (simt::kChecked && bytes) simt::check_host_access(target, bytes, simt::Access::kWrite);
  if (bytes) std::memset(target, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  simt::begin("cudaMemcpyAsync", bytes, stream);
  if (kind != cudaMemcpyDeviceToDevice) simt::forbidden("cudaMemcpyAsync between host and device");
  if (simt::kChecked && bytes) {
    simt::check_host_access(source, bytes, simt::Access::kRead);
    simt::check_host_access(target, bytes, simt::Access::kWrite);
  }
  if (bytes) std::memmove(target, source, bytes);
  return cudaSuccess;
}
