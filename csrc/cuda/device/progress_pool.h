// Who owns the page-locked memory and the events of Progress: as many as calls run at one time on a device, made when
// first needed and used again by later calls of any thread.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/device/progress.h"

namespace irf::cuda {

class ProgressPool {
 public:
  // Gives a Progress of the current device, number `device`, until the pointer dies; null while the stream is captured.
  static cudaError_t borrow(int device, cudaStream_t stream, std::shared_ptr<Progress>& progress) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaError_t error = cudaStreamIsCapturing(stream, &status);
    if (error != cudaSuccess || status != cudaStreamCaptureStatusNone) return error;
    // Never destroyed: at the exit of the process the CUDA runtime may be gone before it.
    static ProgressPool& pool = *new ProgressPool;
    std::unique_ptr<Progress> mine = pool.take(device);
    if (!mine) {
      mine = std::make_unique<Progress>();
      error = mine->allocate();
      if (error != cudaSuccess) return error;
    }
    progress = {mine.release(), [device](Progress* used) { pool.give(device, std::unique_ptr<Progress>(used)); }};
    return cudaSuccess;
  }

 private:
  std::unique_ptr<Progress> take(int device) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::unique_ptr<Progress>>& idle = idle_[device];
    if (idle.empty()) return nullptr;
    std::unique_ptr<Progress> last = std::move(idle.back());
    idle.pop_back();
    return last;
  }
  void give(int device, std::unique_ptr<Progress> progress) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_[device].push_back(std::move(progress));
  }

  std::mutex mutex_;
  std::map<int, std::vector<std::unique_ptr<Progress>>> idle_;
};

}  // namespace irf::cuda
