// Threads for the kernels. They come from outside as a function pointer (csrc/torch hands in torch's own pool).
#pragma once

#include "cpu/simd.h"
#include "iresnet_fast/params.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Calls body(0) .. body(count - 1), in parallel.
template <class Body>
void run_each(const Parallel& parallel, int64_t count, const Body& body) {
  parallel.run(
      count, [](int64_t index, void* context) { (*static_cast<const Body*>(context))(index); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Below so many numbers one thread is done before others have started.
constexpr int64_t kNumbersWorthThreads = int64_t(1) << 16;

// Calls body(0) .. body(count - 1), each on so many numbers of memory: in parallel if they are worth it.
template <class Body>
void for_each_share(const Parallel& parallel, int64_t count, int64_t numbers, const Body& body) {
  const int64_t shares = count * numbers < kNumbersWorthThreads ? 1 : min_of(count, int64_t(parallel.threads));
  auto share = [&](int64_t i) {
    for (int64_t k = count * i / shares; k < count * (i + 1) / shares; ++k) body(k);
  };
  shares == 1 ? share(0) : run_each(parallel, shares, share);
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
