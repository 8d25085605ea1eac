// Where the ops of csrc/torch run when they are compiled for the CPU: on the kernels of the instruction set in use, in
// torch's own thread pool. Its twin is torch/cuda/device.h; the include path chooses.
#pragma once

#include "cpu/kernels.h"
#include "cpu/way.h"
#include "torch/cpu/library.h"
#include "torch/cpu/recycled.h"
#include "torch/operands.h"

#define IRF_DEVICE CPU

namespace irf::binding {

Parallel torch_parallel();

// One call of a kernel. Precision is for GPUs: products here are always full.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const Tensor&, int64_t precision = 0) { checked_precision(precision); }

  // What branch_backward need not compute again.
  Tensor kept(const Branch<T>& branch, const ResidualLogdetOperands<T>& o, const Tensor& like) const {
    const bool layers = chooses_layers(branch, training_work(o));
    return recycled(layers ? kernels_.layerwise_kept_size(branch) : kernels_.kept_size(branch, parallel_), like);
  }

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
    kernels_.layerwise_branch_backward(b, o, parallel_, TorchProducts<T>(b).table());
  }
  void residual_logdet(const Branch<T>& b, const ResidualLogdetOperands<T>& o) const {
    const Work evaluation{.stacked = 1, .events = 1, .chain = o.series.terms, .probes = o.probes};
    if (!chooses_layers(b, o.kept ? training_work(o) : evaluation)) return kernels_.residual_logdet(b, o, parallel_);
    kernels_.layerwise_residual_logdet(b, o, parallel_, TorchProducts<T>(b).table());
  }
  void jacobian_powers(const Branch<T>& b, const JacobianPowersOperands<T>& o) const {
    if (!chooses_layers(b, {.stacked = 1, .events = 1, .chain = o.count}))
      return kernels_.jacobian_powers(b, o, parallel_);
    kernels_.layerwise_jacobian_powers(b, o, parallel_, TorchProducts<T>(b).table());
  }
  void jacobian(const Branch<T>& b, const JacobianOperands<T>& o) const { kernels_.jacobian(b, o, parallel_); }
  void residual_inverse(const Branch<T>& b, const ResidualInverseOperands<T>& o) const {
    constexpr int kUsualIterations = 20;
    if (!chooses_layers(b, {.stacked = kUsualIterations, .events = 1}))
      return kernels_.residual_inverse(b, o, parallel_);
    kernels_.layerwise_residual_inverse(b, o, parallel_, TorchProducts<T>(b).table());
  }
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
  bool chooses_layers(const Branch<T>& b, const Work& work) const {
    return choose_way(b, work, parallel_, kernels_) == Way::kLayers;
  }

  // Looked up once: what is kept must have the size of the kernel that fills it.
  const Kernels<T>& kernels_ = kernels<T>();
  const Parallel parallel_ = torch_parallel();
};

}  // namespace irf::binding
