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

// One call of a kernel: it is described, gets the workspace it wants, and is put on the stream. Nothing in it waits for
// the GPU, but what has a Progress and steps of which nobody knows how many are needed.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const Tensor& like, int64_t precision = 0)
      : like_(like), gpu_(gpu_of(like)), target_{gpu_.card, cuda::Precision::kFull} {
    use_precision(precision);
  }

  // Of the products from now on.
  void use_precision(int64_t precision) {
    const auto checked = static_cast<cuda::Precision>(checked_precision(precision));
    if (std::is_same_v<T, float>) target_.precision = checked;
  }

  // How much there is that branch_backward need not compute again, if the card has the memory for it; else 0.
  int64_t kept_size(const Branch<T>& b, const ResidualLogdetOperands<T>& o) const {
    return cuda::residual_logdet_kept(b, o, target_);
  }
  // Memory that lasts until the backward pass.
  Tensor lasting(int64_t numel, const Tensor& like) const { return make({numel}, like); }

  void branch(const Branch<T>& b, const BranchOperands<T>& o) const { run("branch", cuda::branch(b, o, target_)); }
  void branch_backward(const Branch<T>& b, const BranchBackwardOperands<T>& o) const {
    run("branch_backward", cuda::branch_backward(b, o, target_));
  }
  void residual_logdet(const Branch<T>& b, const ResidualLogdetOperands<T>& o) const {
    run_in_pieces("residual_logdet", cuda::residual_logdet(b, o, target_));
  }
  void jacobian_powers(const Branch<T>& b, const JacobianPowersOperands<T>& o) const {
    run("jacobian_powers", cuda::jacobian_powers(b, o, target_));
  }
  void jacobian(const Branch<T>& b, const JacobianOperands<T>& o) const {
    run("jacobian", cuda::jacobian(b, o, target_));
  }
  // There are no kernels for these: iresnet_fast/ops composes them of others.
  Tensor exact_kept(const Branch<T>&, const Tensor&) const { return refuse_exact(), Tensor(); }
  void residual_logdet_exact(const Branch<T>&, const ResidualLogdetExactOperands<T>&) const { refuse_exact(); }
  void residual_logdet_exact_backward(const Branch<T>&, const ResidualLogdetExactBackwardOperands<T>&) const {
    refuse_exact();
  }
  void residual_inverse(const Branch<T>& b, const ResidualInverseOperands<T>& o) const {
    run_in_pieces("residual_inverse", cuda::residual_inverse(b, o, target_));
  }
  void actnorm(const ActNormOperands<T>& o) const { run("actnorm", cuda::actnorm(o, target_)); }
  void actnorm_backward(const ActNormBackwardOperands<T>& o) const {
    run("actnorm_backward", cuda::actnorm_backward(o, target_));
  }
  void rearrange(const RearrangeOperands<T>& o) const { run("rearrange", cuda::rearrange(o, target_)); }
  void sum_rows(const SumRowsOperands<T>& o) const { run("sum_rows", cuda::sum_rows(o, target_)); }
  void spectral_norm(const SpectralNormOperands<T>& o) const { run("spectral_norm", cuda::spectral_norm(o, target_)); }
  void lanczos_norm(const LanczosNormOperands<T>& o) const { run("lanczos_norm", cuda::lanczos_norm(o, target_)); }
  void fingerprint(const FingerprintOperands& o) const { run("fingerprint", cuda::fingerprint(o, target_)); }
  void spectral_normalize(const SpectralNormalizeOperands<T>& o) const {
    run("spectral_normalize", cuda::spectral_normalize(o, target_));
  }
  void spectral_normalize_backward(const SpectralNormalizeOperands<T>& o) const {
    run("spectral_normalize_backward", cuda::spectral_normalize_backward(o, target_));
  }

 private:
  static void refuse_exact() {
    STD_TORCH_CHECK(false,
                    "the log-determinants of a flow on a GPU must be \"none\" or \"series\", got \"exact\"; call "
                    "residual_logdet_exact by itself.");
  }
  void run(const char* op, const cuda::Operation& operation, cuda::Progress* progress = nullptr) const {
    Tensor workspace = scratch(operation.workspace_bytes(), like_);
    CudnnProducts libraries(like_);
    check(operation.launch(workspace.mutable_data_ptr(), gpu_.stream, progress, &libraries), op);
  }
  void run_in_pieces(const char* op, const cuda::Operation& operation) const {
    std::shared_ptr<cuda::Progress> progress;
    check(cuda::ProgressPool::borrow(gpu_.device, gpu_.stream, progress), op);
    run(op, operation, progress.get());
  }

  const Tensor like_;
  const Gpu gpu_;
  cuda::Target target_;
};

}  // namespace irf::binding
