// What the host learns from the GPU: copies into page-locked memory, and the events that say that they have arrived.
// The emulated GPU is never late, so a copy is held back until the host has waited for it: before, its target is
// poison.
#include "runtime.h"

struct CUevent_st {
  uint64_t recorded = 0;  // the number of copies so far when it was last recorded
};

namespace simt {
namespace {

struct Copy {
  uint64_t number;
  char* target;
  std::vector<char> contents;
};
uint64_t copies;
std::list<Copy> under_way;
std::map<char*, size_t> page_locked;

bool is_page_locked(char* target, size_t bytes) {
  const auto next = page_locked.upper_bound(target);
  return next != page_locked.begin() && target + bytes <= std::prev(next)->first + std::prev(next)->second;
}

void refuse_in_a_capture(const char* function) {
  record(function);
  if (config.capturing) fail(function, " is forbidden while the stream is captured into a graph");
}

// A thread that captures a graph forbids all others this, but those in the relaxed mode.
void refuse_beside_a_capture(const char* function) {
  if (config.capture_mode != cudaStreamCaptureModeRelaxed)
    fail(function, " outside the relaxed capture mode fails while another thread captures a graph");
}

}  // namespace
}  // namespace simt

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  simt::refuse_in_a_capture("cudaHostAlloc");
  simt::refuse_beside_a_capture("cudaHostAlloc");
  *memory = std::malloc(bytes);
  simt::page_locked[static_cast<char*>(*memory)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  simt::page_locked.erase(static_cast<char*>(memory));
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  char* const to = static_cast<char*>(target);
  simt::refuse_in_a_capture("cudaMemcpyAsync");
  if (stream != simt::config.stream) simt::fail("cudaMemcpyAsync: not on the caller's stream");
  if (!simt::is_page_locked(to, bytes)) simt::fail("cudaMemcpyAsync: the target is not page-locked, so the host waits");
  for (const simt::Copy& other : simt::under_way)
    if (to < other.target + other.contents.size() && other.target < to + bytes)
      simt::fail("cudaMemcpyAsync: another copy to the same place is under way");
  simt::check_contents(source, bytes, simt::Access::kRead);
  const char* const from = static_cast<const char*>(source);
  simt::under_way.push_back({++simt::copies, to, {from, from + bytes}});
  std::memset(target, simt::kPoison, bytes);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (stream != simt::config.stream) simt::fail("cudaEventRecord: not on the caller's stream");
  event->recorded = simt::copies;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  simt::refuse_in_a_capture("cudaEventSynchronize");
  simt::refuse_beside_a_capture("cudaEventSynchronize");
  for (auto& copies = simt::under_way; !copies.empty() && copies.front().number <= event->recorded; copies.pop_front())
    std::copy(copies.front().contents.begin(), copies.front().contents.end(), copies.front().target);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = simt::config.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(simt::config.capture_mode, *mode);
  return cudaSuccess;
}
