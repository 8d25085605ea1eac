// Instantiates every kernel for one instruction set. Included once by each kernels_<isa>.cpp, after it has named
// IRF_ISA.
#pragma once

#include "cpu/actnorm.h"
#include "cpu/branch.h"
#include "cpu/exact_backward.h"
#include "cpu/fingerprint.h"
#include "cpu/kernels.h"
#include "cpu/lanczos_norm.h"
#include "cpu/layerwise_backward.h"
#include "cpu/layerwise_inverse.h"
#include "cpu/rearrange.h"
#include "cpu/residual_inverse.h"
#include "cpu/residual_logdet.h"
#include "cpu/residual_logdet_exact.h"
#include "cpu/spectral_norm.h"
#include "cpu/spectral_normalize.h"
#include "cpu/sum_rows.h"
#include "cpu/tile_sizes.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
constexpr Kernels<T> table() {
  return {spectral_norm<T>,
          lanczos_norm<T>,
          fingerprint<T>,
          spectral_normalize<T>,
          spectral_normalize_backward<T>,
          branch<T>,
          branch_backward<T>,
          kept_size<T>,
          residual_logdet<T>,
          jacobian_powers<T>,
          jacobian<T>,
          residual_logdet_exact<T>,
          residual_logdet_exact_backward<T>,
          exact_kept_size<T>,
          residual_inverse<T>,
          actnorm<T>,
          actnorm_backward<T>,
          rearrange<T>,
          sum_rows<T>,
          tile_sizes<T>,
          layerwise_branch<T>,
          layerwise_branch_backward<T>,
          layerwise_kept_size<T>,
          layerwise_kept_fits<T>,
          layerwise_residual_logdet<T>,
          layerwise_jacobian_powers<T>,
          layerwise_residual_inverse<T>};
}

}  // namespace

extern const Kernels<float> kFloatKernels;
extern const Kernels<double> kDoubleKernels;
constinit const Kernels<float> kFloatKernels = table<float>();
constinit const Kernels<double> kDoubleKernels = table<double>();

}  // namespace IRF_ISA
}  // namespace irf
