// Products by torch's own operators: what cpu/library.h asks for.
#pragma once

#include "cpu/library.h"
#include "torch/operands.h"

namespace irf::binding {

// The products with the weights of one branch, of one call of an op. They follow torch's switches, such as
// torch.backends.mkldnn, as torch's own layers do.
template <class T>
class TorchProducts {
 public:
  explicit TorchProducts(const Branch<T>& branch, const Traces<T>& traces = {}) : branch_(branch), traces_(traces) {}

  LibraryProducts<T> table();

 private:
  // A linear map as cpu/library.h counts them.
  struct Map {
    int64_t in, out, side;
    const T* weight;
  };

  Map map(int i) const;
  const T* multiply(int i, bool transpose, const T* events, int64_t samples);
  void weight_gradient(int i, const T* events, const T* grad, int64_t samples, bool accumulate, T* result);
  Tensor images(const T* events, int64_t channels, int64_t samples) const;
  Tensor weight_of(const Map& map) const;

  const Branch<T>& branch_;
  const Traces<T> traces_;
  std::optional<Tensor> result_;  // of the last product
};

}  // namespace irf::binding
