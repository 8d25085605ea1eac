#include "torch/cpu/device.h"

namespace irf::binding {

void check_device(const Tensor& t, const char* name) { STD_TORCH_CHECK(t.is_cpu(), name, " must be a CPU tensor"); }

Parallel torch_parallel() {
  return {static_cast<int>(torch::stable::get_num_threads()),
          [](int64_t count, void (*task)(int64_t, void*), void* context) {
            torch::stable::parallel_for(0, count, 1, [=](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i) task(i, context);
            });
          }};
}

}  // namespace irf::binding
