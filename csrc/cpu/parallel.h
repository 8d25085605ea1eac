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

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
