// The table of CPU kernels: one per instruction set and number type, all with the same entries.
#pragma once

#include "iresnet_fast/params.h"

namespace irf {

template <class T>
struct Kernels {
  void (*spectral_norm)(const SpectralNormOperands<T>&, const Parallel&);
  void (*lanczos_norm)(const LanczosNormOperands<T>&, const Parallel&);
  void (*fingerprint)(const FingerprintOperands&, const Parallel&);  // the same for every T
  void (*spectral_normalize)(const SpectralNormalizeOperands<T>&, const Parallel&);
  void (*spectral_normalize_backward)(const SpectralNormalizeOperands<T>&, const Parallel&);
  void (*branch)(const Branch<T>&, const BranchOperands<T>&, const Parallel&);
  void (*branch_backward)(const Branch<T>&, const BranchBackwardOperands<T>&, const Parallel&);
  int64_t (*kept_size)(const Branch<T>&, const Parallel&);
  void (*residual_logdet)(const Branch<T>&, const ResidualLogdetOperands<T>&, const Parallel&);
  void (*jacobian_powers)(const Branch<T>&, const JacobianPowersOperands<T>&, const Parallel&);
  void (*jacobian)(const Branch<T>&, const JacobianOperands<T>&, const Parallel&);
  void (*residual_inverse)(const Branch<T>&, const ResidualInverseOperands<T>&, const Parallel&);
};

// The kernels of the instruction set in use (cpu/isa.h).
template <class T>
const Kernels<T>& kernels();

#define IRF_DECLARE_KERNELS(isa)               \
  namespace isa {                              \
  extern const Kernels<float> kFloatKernels;   \
  extern const Kernels<double> kDoubleKernels; \
  }
IRF_DECLARE_KERNELS(scalar)
#if defined(__aarch64__)
IRF_DECLARE_KERNELS(neon)
#elif defined(__x86_64__)
IRF_DECLARE_KERNELS(avx2)
IRF_DECLARE_KERNELS(avx512)
#endif
#undef IRF_DECLARE_KERNELS

}  // namespace irf
