// Where the ops of csrc/torch run when they are compiled for the CPU: on the kernels of the instruction set in use, in
// torch's own thread pool. Its twin is torch/cuda/device.h; the include path chooses.
#pragma once

#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/way.h"
#include "torch/cpu/library.h"
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
  int64_t kept_size(const Branch<T>& branch, const ResidualLogdetOperands<T>& o) const {
    const bool layers = chooses_layers(branch, training_work(o));
    return layers ? kernels_.layerwise_kept_size(branch) : kernels_.kept_size(branch, parallel_);
  }
  // Memory that lasts until the backward pass.
  Tensor lasting(int64_t numel, const Tensor& like) const { return recycled(numel, like); }

  void branch(const Branch<T>& b, const BranchOperands<T>& o) const {
    if (!chooses_layers(b, {.stacked = 1, .events = 1})) return kernels_.branch(b, o, parallel_);
    kernels_.layerwise_branch(b, o, parallel_, TorchProducts<T>(b).table());
  }
  // What an earlier call kept says which way that went; there is no better one for the rest.
  void branch_backward(const Branch<T>& b, const BranchBackwardOperands<T>& o) const {
    const Work work{.stacked = 2, .events = 1 + o.pairs, .gradients = true};
    const bool kept = o.kept && o.pairs == 1;
    if (!(kept ? kernels_.layerwise_kept_fits(b, o.kept, o.kept_size) : chooses_layers(b, work)))
      return kernels_.branch_backward(b, o, parallel_);
    kernels_.layerwise_branch_backward(b, o, parallel_, TorchProducts<T>(b, o.traces).table());
  }
  void residual_logdet(const Branch<T>& b, const ResidualLogdetOperands<T>& o) const {
    const Work evaluation{.stacked = 1, .events = 1, .chain = o.series.terms, .probes = o.probes};
    if (!chooses_layers(b, o.kept ? training_work(o) : evaluation)) return kernels_.residual_logdet(b, o, parallel_);
    kernels_.layerwise_residual_logdet(b, o, parallel_, TorchProducts<T>(b, o.series.traces).table());
  }
  void jacobian_powers(const Branch<T>& b, const JacobianPowersOperands<T>& o) const {
    if (!chooses_layers(b, {.stacked = 1, .events = 1, .chain = o.count}))
      return kernels_.jacobian_powers(b, o, parallel_);
    kernels_.layerwise_jacobian_powers(b, o, parallel_, TorchProducts<T>(b).table());
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
    constexpr int kUsualIterations = 20;
    if (!chooses_layers(b, {.stacked = kUsualIterations, .events = 1}))
      return kernels_.residual_inverse(b, o, parallel_);
    kernels_.layerwise_residual_inverse(b, o, parallel_, TorchProducts<T>(b).table());
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
  // Of the forward and the backward pass, which go the same way.
  static Work training_work(const ResidualLogdetOperands<T>& o) {
    return {.stacked = 2, .events = 2, .chain = o.series.terms - 1, .gradients = true};
  }
  // A library's products are not those of bfloat16 operands.
  bool chooses_layers(const Branch<T>& b, const Work& work) const {
    return !parallel_.bf16 && choose_way(b, work, parallel_, kernels_) == Way::kLayers;
  }

  // Looked up once: what is kept must have the size of the kernel that fills it.
  const Kernels<T>& kernels_ = kernels<T>();
  Parallel parallel_;
};

}  // namespace irf::binding
