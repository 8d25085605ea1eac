// Every op, as csrc/torch and the tests call it: a function that describes one call and launches nothing. The Operation
// it returns says how much workspace the call wants, and puts its kernels on a stream. A launch neither allocates nor
// waits nor reads anything back, so a call can be captured in a CUDA graph. The exception is what ends early after many
// launches, and only where it is given a Progress (device/progress.h).
//
// Pointers inside the operands are device pointers, through which a description never looks. The structs themselves are
// copied. The arrays of stages and layers that they name are host memory and must live until the launch. Templates are
// defined for float and double.
#pragma once

#include <functional>
#include <tuple>
#include <utility>

#include "cuda/device/context.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

class Operation {
 public:
  // Every part is a description for `target` that has its scratch in `workspace`, and has a method
  // `cudaError_t launch(const Context&) const`. Parts are launched in this order, until one fails.
  template <class... Parts>
  Operation(const Target& target, const Workspace& workspace, Parts... parts)
      : target_(target),
        workspace_(workspace),
        launch_([parts = std::tuple<Parts...>(std::move(parts)...)](const Context& context) {
          return std::apply([&](const Parts&... part) { return launch_in_order(context, part...); }, parts);
        }) {}

  size_t workspace_bytes() const { return workspace_.bytes(); }

  // `workspace`: workspace_bytes() of device memory, 256-byte aligned. Without a progress nothing waits; `libraries`
  // are needed if the card of the target has them.
  cudaError_t launch(void* workspace, cudaStream_t stream, Progress* progress = nullptr,
                     LibraryProducts* libraries = nullptr) const {
    return launch_(Context{target_, workspace_.at(workspace), stream, progress, libraries});
  }

 private:
  template <class... Parts>
  static cudaError_t launch_in_order(const Context& context, const Parts&... parts) {
    cudaError_t error = cudaSuccess;
    ((error = error == cudaSuccess ? parts.launch(context) : error), ...);
    return error;
  }

  Target target_;
  Workspace workspace_;
  std::function<cudaError_t(const Context&)> launch_;
};

// The branch g(x), or x + g(x).
template <class T>
Operation branch(const Branch<T>&, const BranchOperands<T>&, const Target&);

template <class T>
Operation branch_backward(const Branch<T>&, const BranchBackwardOperands<T>&, const Target&);

template <class T>
Operation residual_logdet(const Branch<T>&, const ResidualLogdetOperands<T>&, const Target&);

// Elements that a training step keeps for its backward pass (kept.h), 0: nothing. For these operands and one probe.
template <class T>
int64_t residual_logdet_kept(const Branch<T>&, const ResidualLogdetOperands<T>&, const Target&);

template <class T>
Operation jacobian_powers(const Branch<T>&, const JacobianPowersOperands<T>&, const Target&);

template <class T>
Operation jacobian(const Branch<T>&, const JacobianOperands<T>&, const Target&);

template <class T>
Operation residual_inverse(const Branch<T>&, const ResidualInverseOperands<T>&, const Target&);

// The steps of a flow between its blocks, and the sum of the log-determinants of all.
template <class T>
Operation actnorm(const ActNormOperands<T>&, const Target&);
template <class T>
Operation actnorm_backward(const ActNormBackwardOperands<T>&, const Target&);
template <class T>
Operation rearrange(const RearrangeOperands<T>&, const Target&);
template <class T>
Operation sum_rows(const SumRowsOperands<T>&, const Target&);

template <class T>
Operation spectral_norm(const SpectralNormOperands<T>&, const Target&);

template <class T>
Operation lanczos_norm(const LanczosNormOperands<T>&, const Target&);

// The same for every type.
Operation fingerprint(const FingerprintOperands&, const Target&);

template <class T>
Operation spectral_normalize(const SpectralNormalizeOperands<T>&, const Target&);
template <class T>
Operation spectral_normalize_backward(const SpectralNormalizeOperands<T>&, const Target&);

}  // namespace irf::cuda
