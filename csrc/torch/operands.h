// From torch tensors to the plain structs of iresnet_fast/params.h, on any device. Checks here guard memory; the
// sentences users read come from the Python layer.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

#include "iresnet_fast/params.h"
#include "torch/sizes.h"

namespace irf::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

// Checks that a tensor is on the kind of device this library was compiled for: cpu/device.cpp or cuda/device.cpp.
void check_device(const Tensor& t, const char* name);

inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline Tensor make(const std::vector<int64_t>& sizes, const Tensor& like,
                   std::optional<ScalarType> type = std::nullopt) {
  return torch::stable::new_empty(like, sizes, type.value_or(like.scalar_type()));
}

// The memory of a tensor that is only read. It may have been given back though there are numbers (resize_(0) of the
// storage, as sharding does to parameters that are not gathered).
inline const void* memory(const Tensor& t) {
  const void* start = t.const_data_ptr();
  STD_TORCH_CHECK(start != nullptr || t.numel() == 0, "a tensor must have memory for its ", t.numel(),
                  " numbers, got one whose storage was freed; call the model that owns it, which gathers it.");
  return start;
}

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(memory(t));
}
template <class T>
const T* data(const std::optional<Tensor>& t) {
  return t ? data<T>(*t) : nullptr;
}
template <class T>
T* mutable_data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

inline void check_like(const Tensor& t, const Tensor& reference, int64_t numel, const char* name) {
  STD_TORCH_CHECK(t.device() == reference.device(), name, " must be on the device of the first argument; move it.");
  STD_TORCH_CHECK(t.scalar_type() == reference.scalar_type(), name,
                  " must have the dtype of the first argument; convert it.");
  STD_TORCH_CHECK(t.numel() == numel, name, " must have ", numel, " elements, got ", t.numel(), "; reshape it.");
}

// The same of a tensor that need not be there, in one piece.
inline std::optional<Tensor> dense_like(const std::optional<Tensor>& t, const Tensor& reference, int64_t numel,
                                        const char* name) {
  if (!t) return std::nullopt;
  const Tensor own = dense(*t);
  check_like(own, reference, numel, name);
  return own;
}

// What an earlier call has kept, if it has kept anything.
inline std::optional<Tensor> dense_kept(const std::optional<Tensor>& kept, const Tensor& reference) {
  return kept && kept->numel() > 0 ? dense_like(kept, reference, kept->numel(), "kept") : std::nullopt;
}

// Calls body(T{}) with the element type of `t`.
template <class Body>
void with_type(const Tensor& t, const char* name, const Body& body) {
  check_device(t, name);
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double, name,
                  " must be float32 or float64; convert them.");
  if (t.scalar_type() == ScalarType::Float)
    body(float{});
  else
    body(double{});
}

// How exact the products of float32 numbers must be.
inline int checked_precision(int64_t precision) {
  STD_TORCH_CHECK(0 <= precision && precision <= 2, "precision must be 0 (full), 1 (TF32) or 2 (bf16), got ", precision,
                  "; pass one of them.");
  return static_cast<int>(precision);
}

// The arguments every branch op begins with, kept alive and contiguous, and the struct over them.
class BranchArguments {
 public:
  BranchArguments(const Tensor& x, const Tensors& weights, const Tensors& biases, const Tensors& betas,
                  const Tensors& factors, const std::vector<int64_t>& activations,
                  const std::vector<double>& constants);

  const Tensor& x() const { return x_; }
  int64_t batch() const { return x_.size(0); }
  int64_t in_size() const { return batch() == 0 ? 0 : x_.numel() / batch(); }
  int64_t out_channels() const { return weights_.back().size(0); }
  bool square() const { return out_channels() == x_.size(1); }
  std::vector<int64_t> event_sizes(std::vector<int64_t> leading,
                                   int64_t channels) const;  // leading + [channels, height, width]
  int64_t parameter_count() const;
  // Of the stages before this one, so where the gradient of its weight begins.
  int64_t parameters_before(int64_t stage) const;
  int64_t stage_count() const { return static_cast<int64_t>(weights_.size()); }
  const Tensor& weight(int64_t stage) const { return weights_[stage]; }
  int64_t channels(int64_t stage) const { return weights_[stage].size(1); }
  int64_t largest_kernel() const;
  // Whether there is such a stage and its h is not a itself.
  bool has_derivative(int64_t stage) const;

  template <class T>
  Branch<T> fill(std::vector<Stage<T>>& stages) const {
    for (size_t i = 0; i < weights_.size(); ++i) {
      const Tensor& w = weights_[i];
      stages.push_back({.activation = static_cast<Activation>(activations_[i]),
                        .in_channels = static_cast<int>(w.size(1)),
                        .out_channels = static_cast<int>(w.size(0)),
                        .kernel = w.dim() == 4 ? static_cast<int>(w.size(2)) : 1,
                        .weight = data<T>(w),
                        .bias = optional_data<T>(biases_[i]),
                        .beta = optional_data<T>(betas_[i]),
                        .factor = optional_data<T>(factors_[i]),
                        .constant = static_cast<T>(constants_[i]),
                        .bias_spread = spread_of(biases_[i]),
                        .factor_spread = spread_of(factors_[i])});
    }
    const bool image = x_.dim() == 4;
    return {static_cast<int>(stages.size()), stages.data(), image ? static_cast<int>(x_.size(2)) : 0,
            image ? static_cast<int>(x_.size(3)) : 0, batch()};
  }

 private:
  template <class T>
  static const T* optional_data(const Tensor& t) {
    return t.numel() == 0 ? nullptr : data<T>(t);
  }

  // [C], [B, C] or [B, C, height, width].
  static Spread spread_of(const Tensor& t) {
    return t.dim() == 4 ? Spread::kPixel : t.dim() == 2 ? Spread::kSample : Spread::kShared;
  }

  Tensor x_;
  Tensors weights_, biases_, betas_, factors_;
  std::vector<int64_t> activations_;
  std::vector<double> constants_;
};

// Calls body(branch, T{}) with the element type of the branch.
template <class Body>
void with_branch(const BranchArguments& arguments, const Body& body) {
  if (arguments.x().scalar_type() == ScalarType::Float) {
    std::vector<Stage<float>> stages;
    body(arguments.fill<float>(stages), float{});
  } else {
    std::vector<Stage<double>> stages;
    body(arguments.fill<double>(stages), double{});
  }
}

}  // namespace irf::binding
