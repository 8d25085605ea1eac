// Where the ops of csrc/torch run when they are compiled for CUDA: on the GPU of their first tensor, in torch's current
// stream there. Its twin is torch/cpu/device.h; the include path chooses.
#pragma once

#include <memory>
#include <type_traits>

#include "cuda/device/progress_pool.h"
#include "cuda/ops.h"
#include "torch/cuda/library.h"
#include "torch/operands.h"

#define IRF_DEVICE CUDA

namespace irf::binding {

// The GPU a tensor is on, current for this thread while `guard` lives.
struct Gpu {
  int device;
  cuda::Card card;
  cudaStream_t stream;
  std::shared_ptr<void> guard;
};
Gpu gpu_of(const Tensor& t);

// Scratch on the device of `like` from torch's allocator: ordered by the stream, and captured with it in a CUDA graph.
Tensor scratch(size_t bytes, const Tensor& like);

// Turns an error of the CUDA runtime into an exception of one sentence.
void check(cudaError_t error, const char* op);

// One call of a kernel. Nothing in it waits for the GPU, but what has a Progress and steps of which nobody
// knows how many are needed.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const Tensor& like, int64_t precision = 0) : like_(like), gpu_(gpu_of(like)), libraries_(like) {
    const auto checked = static_cast<cuda::Precision>(checked_precision(precision));
    if (std::is_same_v<T, float>) precision_ = checked;
  }

  // What branch_backward need not compute again, if the card has the memory for it.
  Tensor kept(const Branch<T>& b, const ResidualLogdetOperands<T>& o, const Tensor& like) const {
    return make({cuda::residual_logdet_kept(b, o, gpu_.card, precision_)}, like);
  }

  void branch(const Branch<T>& b, const BranchOperands<T>& o) const {
    run("branch", cuda::branch_workspace<T>, cuda::branch<T>, b, o);
  }
  void branch_backward(const Branch<T>& b, const BranchBackwardOperands<T>& o) const {
    run("branch_backward", cuda::branch_backward_workspace<T>, cuda::branch_backward<T>, b, o);
  }
  void residual_logdet(const Branch<T>& b, const ResidualLogdetOperands<T>& o) const {
    const auto borrowed = progress("residual_logdet");
    run("residual_logdet", cuda::residual_logdet_workspace<T>, cuda::residual_logdet<T>, b, o, borrowed.get());
  }
  void jacobian_powers(const Branch<T>& b, const JacobianPowersOperands<T>& o) const {
    run("jacobian_powers", cuda::jacobian_powers_workspace<T>, cuda::jacobian_powers<T>, b, o);
  }
  void jacobian(const Branch<T>& b, const JacobianOperands<T>& o) const {
    run("jacobian", cuda::jacobian_workspace<T>, cuda::jacobian<T>, b, o);
  }
  void residual_inverse(const Branch<T>& b, const ResidualInverseOperands<T>& o) const {
    const auto borrowed = progress("residual_inverse");
    run("residual_inverse", cuda::residual_inverse_workspace<T>, cuda::residual_inverse<T>, b, o, borrowed.get());
  }
  void spectral_norm(const SpectralNormOperands<T>& o) const {
    run("spectral_norm", cuda::spectral_norm_workspace<T>, cuda::spectral_norm<T>, o);
  }
  void lanczos_norm(const LanczosNormOperands<T>& o) const {
    run("lanczos_norm", cuda::lanczos_norm_workspace<T>, cuda::lanczos_norm<T>, o);
  }
  void fingerprint(const FingerprintOperands& o) const {
    run("fingerprint", cuda::fingerprint_workspace, cuda::fingerprint, o);
  }
  void spectral_normalize(const SpectralNormalizeOperands<T>& o) const {
    run("spectral_normalize", cuda::spectral_normalize_workspace<T>, cuda::spectral_normalize<T>, o);
  }
  void spectral_normalize_backward(const SpectralNormalizeOperands<T>& o) const {
    run("spectral_normalize_backward", cuda::spectral_normalize_workspace<T>, cuda::spectral_normalize_backward<T>, o);
  }

 private:
  template <class Operands>
  void run(const char* op, size_t (*bytes)(const Branch<T>&, const Operands&, const cuda::Card&, cuda::Precision),
           cudaError_t (*launch)(const Branch<T>&, const Operands&, const cuda::Context&), const Branch<T>& branch,
           const Operands& operands, cuda::Progress* progress = nullptr) const {
    Tensor workspace = scratch(bytes(branch, operands, gpu_.card, precision_), like_);
    check(launch(branch, operands, context(workspace, progress)), op);
  }
  template <class Operands>
  void run(const char* op, size_t (*bytes)(const Operands&, const cuda::Card&),
           cudaError_t (*launch)(const Operands&, const cuda::Context&), const Operands& operands) const {
    Tensor workspace = scratch(bytes(operands, gpu_.card), like_);
    check(launch(operands, context(workspace)), op);
  }
  cuda::Context context(Tensor& workspace, cuda::Progress* progress = nullptr) const {
    return {gpu_.card, precision_, workspace.mutable_data_ptr(), gpu_.stream, progress, &libraries_};
  }
  std::shared_ptr<cuda::Progress> progress(const char* op) const {
    std::shared_ptr<cuda::Progress> borrowed;
    check(cuda::ProgressPool::borrow(gpu_.device, gpu_.stream, borrowed), op);
    return borrowed;
  }

  const Tensor like_;
  const Gpu gpu_;
  cuda::Precision precision_ = cuda::Precision::kFull;
  mutable CudnnProducts libraries_;
};

}  // namespace irf::binding
