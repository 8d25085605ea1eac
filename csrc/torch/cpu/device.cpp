#include "torch/cpu/device.h"

#include <exception>
#include <mutex>

namespace irf::binding {

void check_device(const Tensor& t, const char* name) { STD_TORCH_CHECK(t.is_cpu(), name, " must be a CPU tensor"); }

void check_order(const int64_t* index, int64_t size) {
  std::vector<bool> found(size);
  for (int64_t i = 0; i < size; ++i) {
    STD_TORCH_CHECK(0 <= index[i] && index[i] < size && !found[index[i]], "an index must hold every number below ",
                    size, " once, got ", index[i], " out of range or again; change it.");
    found[index[i]] = true;
  }
}

Parallel torch_parallel() {
  return {static_cast<int>(torch::stable::get_num_threads()),
          [](int64_t count, void (*task)(int64_t, void*), void* context) {
            // An exception must not leave a thread: memory may run out in any of them. The first one is thrown here.
            std::exception_ptr error;
            std::mutex mutex;
            torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
              try {
                for (int64_t i = begin; i < end; ++i) task(i, context);
              } catch (...) {
                const std::lock_guard<std::mutex> lock(mutex);
                if (!error) error = std::current_exception();
              }
            });
            if (error) std::rethrow_exception(error);
          }};
}

}  // namespace irf::binding
