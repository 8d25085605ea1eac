// The table of CPU kernels: one per instruction set and number type, all with the same entries.
#pragma once

#include "cpu/library.h"
#include "iresnet_fast/params.h"

namespace irf {

// How a call shares a branch out over cores, each of which owns a tile of samples at a time.
struct TileSizes {
  int chunks;       // cores that have something to do
  int samples;      // of a tile
  int64_t tiles;    // of the core that has the most
  int64_t columns;  // that a tile computes, the pads between images and beyond the samples included
};

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
  void (*residual_logdet_exact)(const Branch<T>&, const ResidualLogdetExactOperands<T>&, const Parallel&);
  void (*residual_logdet_exact_backward)(const Branch<T>&, const ResidualLogdetExactBackwardOperands<T>&,
                                         const Parallel&);
  int64_t (*exact_kept_size)(const Branch<T>&, const Parallel&);
  void (*residual_inverse)(const Branch<T>&, const ResidualInverseOperands<T>&, const Parallel&);
  void (*actnorm)(const ActNormOperands<T>&, const Parallel&);
  void (*actnorm_backward)(const ActNormBackwardOperands<T>&, const Parallel&);
  void (*rearrange)(const RearrangeOperands<T>&, const Parallel&);
  void (*sum_rows)(const SumRowsOperands<T>&, const Parallel&);

  TileSizes (*tile_sizes)(const Branch<T>&, const Parallel&);

  // The same layer by layer, with a library's products.
  using Library = LibraryProducts<T>;
  void (*layerwise_branch)(const Branch<T>&, const BranchOperands<T>&, const Parallel&, const Library&);
  void (*layerwise_branch_backward)(const Branch<T>&, const BranchBackwardOperands<T>&, const Parallel&,
                                    const Library&);
  int64_t (*layerwise_kept_size)(const Branch<T>&);
  bool (*layerwise_kept_fits)(const Branch<T>&, const T* kept, int64_t kept_size);
  void (*layerwise_residual_logdet)(const Branch<T>&, const ResidualLogdetOperands<T>&, const Parallel&,
                                    const Library&);
  void (*layerwise_jacobian_powers)(const Branch<T>&, const JacobianPowersOperands<T>&, const Parallel&,
                                    const Library&);
  void (*layerwise_residual_inverse)(const Branch<T>&, const ResidualInverseOperands<T>&, const Parallel&,
                                     const Library&);
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
