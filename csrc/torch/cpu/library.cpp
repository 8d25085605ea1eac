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

Sizes padding_of(int64_t kernel) { return Sizes(2, kernel / 2); }

Tensor convolve(const Tensor& images, const Tensor& weight, int64_t kernel, bool transpose) {
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

Tensor convolution_gradient(const Tensor& grad, const Tensor& images, const Tensor& weight, int64_t kernel) {
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
TorchProducts<T>::Map TorchProducts<T>::map(int i) const {
  if (i < branch_.stages) {
    const Stage<T>& stage = branch_.stage[i];
    return {stage.in_channels, stage.out_channels, stage.kernel, stage.weight};
  }
  const Trace<T>& trace = traces_.trace[i - branch_.stages];
  return {branch_.stage[trace.right].in_channels, branch_.stage[trace.left].in_channels, trace.kernel, trace.map};
}

template <class T>
Tensor TorchProducts<T>::images(const T* events, int64_t channels, int64_t samples) const {
  const int64_t height = branch_.height, width = branch_.width, plane = height * width;
  return view(events, {samples, channels, height, width}, {channels * plane, plane, width, 1});
}

template <class T>
Tensor TorchProducts<T>::weight_of(const Map& map) const {
  const int64_t taps = map.side * map.side;
  return view(map.weight, {map.out, map.in, map.side, map.side}, {map.in * taps, taps, map.side, 1});
}

template <class T>
const T* TorchProducts<T>::multiply(int i, bool transpose, const T* events, int64_t samples) {
  const Map map = this->map(i);
  const int64_t from = transpose ? map.out : map.in, to = transpose ? map.in : map.out;
  if (!branch_.dense()) {
    const Tensor result = convolve(images(events, from, samples), weight_of(map), map.side, transpose);
    result_ = torch::stable::contiguous(result);
    return data<T>(*result_);
  }
  const Tensor factor = matrix(events, samples, from);
  result_ = make({samples, to}, factor);
  const Tensor weight =
      transpose ? matrix(map.weight, map.out, map.in) : transposed_matrix(map.weight, map.out, map.in);
  multiply_into(factor, weight, *result_);
  return data<T>(*result_);
}

template <class T>
void TorchProducts<T>::weight_gradient(int i, const T* events, const T* grad, int64_t samples, bool accumulate,
                                       T* result) {
  const Map map = this->map(i);
  Tensor target = matrix(result, map.out, map.in);
  if (!branch_.dense()) {
    target =
        convolution_gradient(images(grad, map.out, samples), images(events, map.in, samples), weight_of(map), map.side);
  } else {
    if (accumulate) target = make({map.out, map.in}, target);
    multiply_into(transposed_matrix(grad, samples, map.out), matrix(events, samples, map.in), target);
    if (!accumulate) return;
  }
  const T* sums = data<T>(target);
  for (int64_t k = 0; k < target.numel(); ++k) result[k] = accumulate ? result[k] + sums[k] : sums[k];
}

template class TorchProducts<float>;
template class TorchProducts<double>;

}  // namespace irf::binding
