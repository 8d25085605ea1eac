#include "cpu/kernels.h"

#include "cpu/isa.h"

namespace irf {
namespace {

#ifdef IRF_NO_X86
#define IRF_PICK(table) return scalar::table;
#else
#define IRF_PICK(table)     \
  switch (current_isa()) {  \
    case Isa::kAvx512:      \
      return avx512::table; \
    case Isa::kAvx2:        \
      return avx2::table;   \
    default:                \
      return scalar::table; \
  }
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
