// The launch functions of every op: what csrc/torch and the tests call. Each only puts kernels on the stream: no
// allocation, no synchronisation, no read-back, so a call can be captured in a CUDA graph. The exception is what ends
// early after many launches, and only where the context has a Progress (device/progress.h). Pointers inside the
// operands are device pointers; the structs themselves, and the arrays of stages and layers, live on the host and may
// die after the call. <op>_workspace says how many bytes of device memory `workspace` must offer (256-byte aligned); it
// looks at sizes and at which pointers are null, never through them. Templates are defined for float and double.
#pragma once

#ifndef SIMT_EMULATED
#include <cuda_runtime_api.h>
#endif

#include <cstddef>

#include "cuda/device/card.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

class LibraryProducts;
class Progress;

struct Context {
  Card card;
  Precision precision;
  void* workspace;
  cudaStream_t stream;
  Progress* progress = nullptr;          // null: nothing may wait, as in a capture
  LibraryProducts* libraries = nullptr;  // given where card.libraries is true
  void* sums = nullptr;                  // device memory that a product may use until its epilogue has run
};

// The branch g(x).
template <class T>
size_t branch_workspace(const Branch<T>&, const BranchOperands<T>&, const Card&, Precision);
template <class T>
cudaError_t branch(const Branch<T>&, const BranchOperands<T>&, const Context&);

template <class T>
size_t branch_backward_workspace(const Branch<T>&, const BranchBackwardOperands<T>&, const Card&, Precision);
template <class T>
cudaError_t branch_backward(const Branch<T>&, const BranchBackwardOperands<T>&, const Context&);

template <class T>
size_t residual_logdet_workspace(const Branch<T>&, const ResidualLogdetOperands<T>&, const Card&, Precision);
template <class T>
cudaError_t residual_logdet(const Branch<T>&, const ResidualLogdetOperands<T>&, const Context&);

// Elements that a training step keeps for its backward pass (kept.h), 0: nothing. For these operands and one probe.
template <class T>
int64_t residual_logdet_kept(const Branch<T>&, const ResidualLogdetOperands<T>&, const Card&, Precision);

template <class T>
size_t jacobian_powers_workspace(const Branch<T>&, const JacobianPowersOperands<T>&, const Card&, Precision);
template <class T>
cudaError_t jacobian_powers(const Branch<T>&, const JacobianPowersOperands<T>&, const Context&);

template <class T>
size_t jacobian_workspace(const Branch<T>&, const JacobianOperands<T>&, const Card&, Precision);
template <class T>
cudaError_t jacobian(const Branch<T>&, const JacobianOperands<T>&, const Context&);

template <class T>
size_t residual_inverse_workspace(const Branch<T>&, const ResidualInverseOperands<T>&, const Card&, Precision);
template <class T>
cudaError_t residual_inverse(const Branch<T>&, const ResidualInverseOperands<T>&, const Context&);

template <class T>
size_t spectral_norm_workspace(const SpectralNormOperands<T>&, const Card&);
template <class T>
cudaError_t spectral_norm(const SpectralNormOperands<T>&, const Context&);

template <class T>
size_t lanczos_norm_workspace(const LanczosNormOperands<T>&, const Card&);
template <class T>
cudaError_t lanczos_norm(const LanczosNormOperands<T>&, const Context&);

// The same for every type.
size_t fingerprint_workspace(const FingerprintOperands&, const Card&);
cudaError_t fingerprint(const FingerprintOperands&, const Context&);

template <class T>
size_t spectral_normalize_workspace(const SpectralNormalizeOperands<T>&, const Card&);
template <class T>
cudaError_t spectral_normalize(const SpectralNormalizeOperands<T>&, const Context&);
template <class T>
cudaError_t spectral_normalize_backward(const SpectralNormalizeOperands<T>&, const Context&);

}  // namespace irf::cuda
