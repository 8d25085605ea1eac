// Steps of which nobody knows how many are needed, enqueued a piece at a time: the one place where a launch function
// waits for the GPU. The kernels count the items that have stopped; after each piece the count is copied to the host,
// and before one more piece the host waits for the count before the last. So a piece is always under way behind the one
// waited for and the GPU does not idle, and at most two pieces are enqueued for nothing.
#pragma once

#include "cuda/device/context.h"

namespace irf::cuda {

// A step is two launches or more, and the smallest launch takes a GPU about 2 us: a piece lasts longer than a host that
// sleeps needs to wake up and enqueue on (some 50 us).
constexpr int64_t kPiece = 16;

// A count of the device as the host sees it: page-locked memory for the two copies that may be under way. Serves one
// call at a time.
class Progress {
 public:
  Progress() = default;
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    for (const Slot& slot : slots_) {
      if (slot.arrived) cudaEventDestroy(slot.arrived);
      if (slot.count) cudaFreeHost(slot.count);
    }
  }

  // Before anything else, on the device whose counts it will see.
  cudaError_t allocate() {
    const OutsideCaptures outside;
    cudaError_t error = cudaSuccess;
    for (Slot& slot : slots_) {
      if (error == cudaSuccess)
        error = cudaHostAlloc(reinterpret_cast<void**>(&slot.count), sizeof *slot.count, cudaHostAllocDefault);
      if (error == cudaSuccess)
        error = cudaEventCreateWithFlags(&slot.arrived, cudaEventBlockingSync | cudaEventDisableTiming);
    }
    return error;
  }

  // Puts a copy of the count on the stream.
  cudaError_t report(const unsigned* count, cudaStream_t stream) {
    newest_ = 1 - newest_;
    // The last copy to this place may still be under way: an earlier call ended without it, on another stream perhaps.
    cudaError_t error = wait(slots_[newest_]);
    if (error == cudaSuccess)
      error = cudaMemcpyAsync(slots_[newest_].count, count, sizeof *count, cudaMemcpyDeviceToHost, stream);
    return error == cudaSuccess ? cudaEventRecord(slots_[newest_].arrived, stream) : error;
  }

  // Waits for the report before the newest one and gives its count.
  cudaError_t before_newest(unsigned& count) const {
    const Slot& slot = slots_[1 - newest_];
    const cudaError_t error = wait(slot);
    if (error == cudaSuccess) count = *slot.count;
    return error;
  }

 private:
  struct Slot {
    unsigned* count;
    cudaEvent_t arrived;
  };

  // While another thread captures a graph, CUDA forbids every thread to wait and to allocate, lest it waits for what is
  // only being recorded. What is done here has no part in a graph.
  struct OutsideCaptures {
    OutsideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode); }
    OutsideCaptures(const OutsideCaptures&) = delete;
    OutsideCaptures& operator=(const OutsideCaptures&) = delete;
    ~OutsideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode); }
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  };

  static cudaError_t wait(const Slot& slot) {
    const OutsideCaptures outside;
    return cudaEventSynchronize(slot.arrived);  // returns at once if nothing was ever recorded
  }

  Slot slots_[2] = {};
  int newest_ = 0;
};

// Where kernels count the items that have stopped: `count`, or null if nobody will look.
inline unsigned* watched(unsigned* count, int64_t last, const Context& context) {
  return context.progress && last >= 2 * kPiece ? count : nullptr;
}

// Calls step(0), ..., step(last), each of which enqueues one step; no further than needed if `stopped`, from watched(),
// says that all items have stopped.
template <class Step>
cudaError_t in_pieces(int64_t last, int64_t items, unsigned* stopped, const Context& context, const Step& step) {
  cudaError_t error = stopped ? cudaMemsetAsync(stopped, 0, sizeof *stopped, context.stream) : cudaSuccess;
  for (int64_t i = 0; i <= last && error == cudaSuccess; ++i) {
    if (stopped && i > 0 && i % kPiece == 0) {
      unsigned count = 0;
      error = context.progress->report(stopped, context.stream);
      if (error == cudaSuccess && i > kPiece) error = context.progress->before_newest(count);
      if (error != cudaSuccess || count == items) return error;
    }
    error = step(i);
  }
  return error;
}

}  // namespace irf::cuda
