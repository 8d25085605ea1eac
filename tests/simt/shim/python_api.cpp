// The C side of emulator.py.
#include "python_api.h"

#include <cstdlib>
#include <exception>

#include "runtime.h"

namespace simt {
namespace {
std::string returned;  // what Python reads until its next call
}

const char* guarded(const std::function<void()>& body) {
  begin_call();
  try {
    body();
    return nullptr;
  } catch (const std::exception& e) {
    return (returned = e.what()).c_str();
  }
}

Workspace::Workspace(size_t bytes) : data_(bytes ? std::aligned_alloc(256, (bytes + 255) / 256 * 256) : nullptr) {
  if (!bytes) return;
  std::memset(data_, kPoison, bytes);
  add_buffer(data_, bytes, "workspace", true, false);
}
Workspace::~Workspace() {
  remove_buffer(data_);
  std::free(data_);
}

OnStream::OnStream(size_t shared_limit) : stream(reinterpret_cast<cudaStream_t>(&returned)) {
  config.shared_limit = shared_limit;
  config.stream = stream;
}
OnStream::~OnStream() { config.stream = nullptr; }

extern "C" {
SIMT_EXPORT void simt_configure(int order, uint64_t seed, size_t shared_limit, bool counting) {
  config.order = static_cast<Order>(order);
  config.seed = seed;
  config.shared_limit = shared_limit;
  config.counting = counting;
}
SIMT_EXPORT void simt_add_buffer(const void* p, size_t bytes, const char* name, bool writable, bool initialised) {
  if (bytes) add_buffer(p, bytes, name, writable, initialised);
}
SIMT_EXPORT void simt_remove_buffer(const void* p) { remove_buffer(p); }
SIMT_EXPORT const char* simt_unwritten() { return (returned = unwritten()).c_str(); }
SIMT_EXPORT const char* simt_calls() { return recorded_calls().c_str(); }
SIMT_EXPORT const char* simt_take_counters() { return (returned = take_counters()).c_str(); }
}

}  // namespace simt
