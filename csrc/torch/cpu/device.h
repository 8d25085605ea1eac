// Where the ops of csrc/torch run when they are compiled for the CPU: on the kernels of the instruction set in use, in
// torch's own thread pool. Its twin is torch/cuda/device.h; the include path chooses.
#pragma once

#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "torch/cpu/recycled.h"
#include "torch/operands.h"

#define IRF_DEVICE CPU

namespace irf::binding {

Parallel torch_parallel();

// Checks that an index holds every number below its size once.
void check_order(const int64_t* index, int64_t size);

// One call of a kernel. Of the precisions there are here full products and, on some CPUs, those of bfloat16 operands.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const Tensor&, int64_t precision = 0) : parallel_(torch_parallel()) { use_precision(precision); }

  // Of the products from now on.
  void use_precision(int64_t precision) { parallel_.bf16 = checked_precision(precision) == 2 && bf16_available(); }

  // How much there is that branch_backward need not compute again.
  int64_t kept_size(const Branch<T>& branch, const ResidualLogdetOperands<T>&) const {
    return kernels_.kept_size(branch, parallel_);
  }
  // Memory that lasts until the backward pass.
  Tensor lasting(int64_t numel, const Tensor& like) const { return recycled(numel, like); }

  void branch(const Branch<T>& b, const BranchOperands<T>& o) const { kernels_.branch(b, o, parallel_); }
  void branch_backward(const Branch<T>& b, const BranchBackwardOperands<T>& o) const {
    kernels_.branch_backward(b, o, parallel_);
  }
  void residual_logdet(const Branch<T>& b, const ResidualLogdetOperands<T>& o) const {
    kernels_.residual_logdet(b, o, parallel_);
  }
  void jacobian_powers(const Branch<T>& b, const JacobianPowersOperands<T>& o) const {
    kernels_.jacobian_powers(b, o, parallel_);
  }
  void jacobian(const Branch<T>& b, const JacobianOperands<T>& o) const { kernels_.jacobian(b, o, parallel_); }
  // What residual_logdet_exact_backward need not compute again.
  Tensor exact_kept(const Branch<T>& branch, const Tensor& like) const {
    return recycled(kernels_.exact_kept_size(branch, parallel_), like);
  }
  void residual_logdet_exact(const Branch<T>& b, const ResidualLogdetExactOperands<T>& o) const {
    kernels_.residual_logdet_exact(b, o, parallel_);
  }
  void residual_logdet_exact_backward(const Branch<T>& b, const ResidualLogdetExactBackwardOperands<T>& o) const {
    kernels_.residual_logdet_exact_backward(b, o, parallel_);
  }
  void residual_inverse(const Branch<T>& b, const ResidualInverseOperands<T>& o) const {
    kernels_.residual_inverse(b, o, parallel_);
  }
  void actnorm(const ActNormOperands<T>& o) const { kernels_.actnorm(o, parallel_); }
  void actnorm_backward(const ActNormBackwardOperands<T>& o) const { kernels_.actnorm_backward(o, parallel_); }
  void rearrange(const RearrangeOperands<T>& o) const {
    check_order(o.index, o.event_size);
    kernels_.rearrange(o, parallel_);
  }
  void sum_rows(const SumRowsOperands<T>& o) const { kernels_.sum_rows(o, parallel_); }
  void spectral_norm(const SpectralNormOperands<T>& o) const { kernels_.spectral_norm(o, parallel_); }
  void lanczos_norm(const LanczosNormOperands<T>& o) const { kernels_.lanczos_norm(o, parallel_); }
  void fingerprint(const FingerprintOperands& o) const { kernels_.fingerprint(o, parallel_); }
  void spectral_normalize(const SpectralNormalizeOperands<T>& o) const { kernels_.spectral_normalize(o, parallel_); }
  void spectral_normalize_backward(const SpectralNormalizeOperands<T>& o) const {
    kernels_.spectral_normalize_backward(o, parallel_);
  }

 private:
  // Looked up once: what is kept must have the size of the kernel that fills it.
  const Kernels<T>& kernels_ = kernels<T>();
  Parallel parallel_;
};

}  // namespace irf::binding
