#include "torch/cuda/library.h"

#include <torch/csrc/stable/ops.h>

#include <array>

#include "cuda/device/pack.h"

namespace irf::binding {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;

using Sizes = std::array<int64_t, 4>;

// A view of memory that somebody else owns.
Tensor view(const float* memory, const Sizes& sizes, const Sizes& strides, const Tensor& like) {
  return torch::stable::from_blob(const_cast<float*>(memory), sizes, strides, like.device(), ScalarType::Float);
}

// Rows, [items * pixels][channels], as images in channels-last memory.
Tensor images(const float* rows, const cuda::LibraryProduct& p, int channels, const Tensor& like) {
  const int64_t line = int64_t(p.width) * channels;
  return view(rows, {p.items, channels, p.height, p.width}, {p.height * line, 1, line, channels}, like);
}

}  // namespace

bool cudnn_takes(const Tensor& like) {
  std::array<StableIValue, 1> stack{from(like)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::cudnn_is_acceptable", "", stack.data(), TORCH_ABI_VERSION));
  return to<bool>(stack[0]);
}

Tensor CudnnProducts::weight_of(const cuda::LibraryProduct& p) {
  const int64_t taps = int64_t(p.kernel) * p.kernel;
  auto known = weights_.find(p.b);
  if (known == weights_.end()) {
    const int adjacent = cuda::adjacent_k(p.allow_tf32 ? cuda::Precision::kTf32 : cuda::Precision::kFull);
    const Tensor packed = view(p.b, {p.columns, taps, p.depth / adjacent, adjacent},
                               {adjacent, int64_t(p.depth) * p.pitch, int64_t(p.pitch) * adjacent, 1}, like_);
    known = weights_.emplace(p.b, torch::stable::contiguous(packed)).first;  // [column][tap][k]: channels last
  }
  return view(data<float>(known->second), {p.columns, p.depth, p.kernel, p.kernel},
              {taps * p.depth, 1, int64_t(p.kernel) * p.depth, p.depth}, like_);
}

cudaError_t CudnnProducts::multiply(const cuda::LibraryProduct& p, float* sums) {
  // The form with `out`: autocast leaves it alone, and it takes the precision as an argument instead of from torch's
  // flags, which may have changed since the forward pass.
  const std::vector<int64_t> padding(2, p.kernel / 2), ones(2, 1);
  constexpr bool kBenchmark = false, kDeterministic = true;
  std::array<StableIValue, 10> stack{from(images(p.a, p, p.depth, like_)),
                                     from(weight_of(p)),
                                     from(padding),
                                     from(ones),
                                     from(ones),
                                     from(int64_t(1)),
                                     from(kBenchmark),
                                     from(kDeterministic),
                                     from(p.allow_tf32),
                                     from(images(sums, p, p.columns, like_))};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::cudnn_convolution", "out", stack.data(), TORCH_ABI_VERSION));
  to<Tensor>(stack[0]);  // takes over what the call returns
  return cudaSuccess;
}

}  // namespace irf::binding
