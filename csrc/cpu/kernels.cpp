#include "cpu/kernels.h"

#include "cpu/isa.h"

namespace irf {
namespace {

#if defined(__aarch64__)
#define IRF_PICK(table) return current_isa() == Isa::kNeon ? neon::table : scalar::table;
#elif defined(__x86_64__)
#define IRF_PICK(table)     \
  switch (current_isa()) {  \
    case Isa::kAvx512:      \
      return avx512::table; \
    case Isa::kAvx2:        \
      return avx2::table;   \
    default:                \
      return scalar::table; \
  }
#else
#define IRF_PICK(table) return scalar::table;
#endif

}  // namespace

template <>
const Kernels<float>& kernels<float>() {
  IRF_PICK(kFloatKernels)
}

template <>
const Kernels<double>& kernels<double>() {
  IRF_PICK(kDoubleKernels)
}

}  // namespace irf
