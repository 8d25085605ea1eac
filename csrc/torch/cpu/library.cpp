#include "torch/cpu/library.h"

#include <array>

namespace irf::binding {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;
using Sizes = std::vector<int64_t>;

template <class T>
Tensor view(const T* memory, const Sizes& sizes, const Sizes& strides) {
  const ScalarType type = sizeof(T) == 4 ? ScalarType::Float : ScalarType::Double;
  return torch::stable::from_blob(const_cast<T*>(memory), sizes, strides,
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), type);
}

// Rows [rows][columns].
template <class T>
Tensor matrix(const T* memory, int64_t rows, int64_t columns) {
  return view(memory, {rows, columns}, {columns, 1});
}
template <class T>
Tensor transposed_matrix(const T* memory, int64_t rows, int64_t columns) {
  return view(memory, {columns, rows}, {1, columns});
}

// out = a b. The forms with `out` are left alone by autocast.
void multiply_into(const Tensor& a, const Tensor& b, const Tensor& out) {
  std::array<StableIValue, 3> stack{from(a), from(b), from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  to<Tensor>(stack[0]);  // takes over what the call returns
}

Sizes padding_of(int kernel) { return Sizes(2, kernel / 2); }

Tensor convolve(const Tensor& images, const Tensor& weight, int kernel, bool transpose) {
  const Sizes ones(2, 1), zeros(2, 0);
  std::array<StableIValue, 9> stack{from(images),
                                    from(weight),
                                    from(std::optional<Tensor>()),
                                    from(ones),
                                    from(padding_of(kernel)),
                                    from(ones),
                                    from(transpose),
                                    from(zeros),
                                    from(int64_t(1))};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

Tensor convolution_gradient(const Tensor& grad, const Tensor& images, const Tensor& weight, int kernel) {
  const Sizes ones(2, 1), zeros(2, 0);
  const std::array<bool, 3> only_weight{false, true, false};
  std::array<StableIValue, 11> stack{from(grad),
                                     from(images),
                                     from(weight),
                                     from(std::optional<Sizes>()),
                                     from(ones),
                                     from(padding_of(kernel)),
                                     from(ones),
                                     from(false),
                                     from(zeros),
                                     from(int64_t(1)),
                                     from(torch::headeronly::HeaderOnlyArrayRef<bool>(only_weight))};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
  to<Tensor>(stack[0]), to<Tensor>(stack[2]);  // undefined
  return torch::stable::contiguous(to<Tensor>(stack[1]));
}

}  // namespace

template <class T>
LibraryProducts<T> TorchProducts<T>::table() {
  return {this,
          [](void* self, int i, bool transpose, const T* events, int64_t samples) {
            return static_cast<TorchProducts*>(self)->multiply(i, transpose, events, samples);
          },
          [](void* self, int i, const T* events, const T* grad, int64_t samples, bool accumulate, T* result) {
            static_cast<TorchProducts*>(self)->weight_gradient(i, events, grad, samples, accumulate, result);
          }};
}

template <class T>
Tensor TorchProducts<T>::images(const T* events, int channels, int64_t samples) const {
  const int64_t height = branch_.height, width = branch_.width, plane = height * width;
  return view(events, {samples, channels, height, width}, {channels * plane, plane, width, 1});
}

template <class T>
Tensor TorchProducts<T>::weight_of(int i) const {
  const Stage<T>& stage = branch_.stage[i];
  const int64_t in = stage.in_channels, out = stage.out_channels, side = stage.kernel, taps = side * side;
  return view(stage.weight, {out, in, side, side}, {in * taps, taps, side, 1});
}

template <class T>
const T* TorchProducts<T>::multiply(int i, bool transpose, const T* events, int64_t samples) {
  const Stage<T>& stage = branch_.stage[i];
  const int64_t in = stage.in_channels, out = stage.out_channels;
  const int64_t from = transpose ? out : in, to = transpose ? in : out;
  if (!branch_.dense()) {
    const Tensor result = convolve(images(events, from, samples), weight_of(i), stage.kernel, transpose);
    result_ = torch::stable::contiguous(result);
    return data<T>(*result_);
  }
  const Tensor factor = matrix(events, samples, from);
  result_ = make({samples, to}, factor);
  multiply_into(factor, transpose ? matrix(stage.weight, out, in) : transposed_matrix(stage.weight, out, in), *result_);
  return data<T>(*result_);
}

template <class T>
void TorchProducts<T>::weight_gradient(int i, const T* events, const T* grad, int64_t samples, bool accumulate,
                                       T* result) {
  const Stage<T>& stage = branch_.stage[i];
  const int64_t in = stage.in_channels, out = stage.out_channels;
  Tensor target = matrix(result, out, in);
  if (!branch_.dense()) {
    target = convolution_gradient(images(grad, out, samples), images(events, in, samples), weight_of(i), stage.kernel);
  } else {
    if (accumulate) target = make({out, in}, target);
    multiply_into(transposed_matrix(grad, samples, out), matrix(events, samples, in), target);
    if (!accumulate) return;
  }
  const T* sums = data<T>(target);
  for (int64_t k = 0; k < target.numel(); ++k) result[k] = accumulate ? result[k] + sums[k] : sums[k];
}

template class TorchProducts<float>;
template class TorchProducts<double>;

}  // namespace irf::binding
