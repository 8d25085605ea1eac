// The C side of emulator.py; the rest lies with what it reads.
#include "python_api.h"

#include <exception>

#include "runtime.h"

namespace simt {

Config config;

extern "C" SIMT_EXPORT void simt_configure(int order, uint64_t seed, size_t shared_limit, bool counting,
                                           bool capturing) {
  config = {static_cast<Order>(order), seed, shared_limit, counting, capturing, nullptr, cudaStreamCaptureModeGlobal};
}

const char* guarded(const std::function<void()>& body) {
  static std::string message;
  begin_call();
  try {
    body();
    if (config.capture_mode != cudaStreamCaptureModeGlobal) fail("the thread is left in another capture mode");
    return nullptr;
  } catch (const std::exception& e) { return (message = e.what()).c_str(); }
}

Workspace::Workspace(size_t bytes) : memory(bytes ? std::aligned_alloc(256, (bytes + 255) / 256 * 256) : nullptr) {
  if (bytes) std::memset(memory, kPoison, bytes);
  simt_add_buffer(memory, bytes, "workspace", true, false);
}
Workspace::~Workspace() {
  simt_remove_buffer(memory);
  std::free(memory);
}

OnStream::OnStream(size_t shared_limit) : stream(reinterpret_cast<cudaStream_t>(&config)) {
  config.shared_limit = shared_limit;
  config.stream = stream;
}
OnStream::~OnStream() { config.stream = nullptr; }

}  // namespace simt
