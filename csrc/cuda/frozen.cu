#include "cuda/frozen.h"

namespace irf::cuda {

template <class T>
Context at_cheapest_precision(const Branch<T>& branch, const WalkRequest& request, Context context) {
  context.precision = cheapest_precision(shape_of(branch), request, context.precision, sizeof(T), context.card);
  return context;
}

template <class T>
Frozen<T>::Frozen(const Branch<T>& branch, const T* x, T* z, bool transpose, const Tangent<T>& tangent,
                  const Context& context, Carver& carver)
    : branch_(branch), transpose_(transpose), context_(context) {
  const Precision precision = context.precision;
  forward_ = carve_packed(branch, Form::kForward, precision, carver);
  if (transpose) transposed_ = carve_packed(branch, Form::kTransposed, precision, carver);
  derivatives_ = carve_derivatives(branch, precision, carver);
  walk_.emplace(branch, forward_.data(), x, derivatives_, z, nullptr, tangent, context, carver);
}

template <class T>
cudaError_t Frozen<T>::freeze() const {
  cudaError_t error = pack_weights(branch_, Form::kForward, context_.precision, forward_.data(), context_.stream);
  if (transpose_ && error == cudaSuccess)
    error = pack_weights(branch_, Form::kTransposed, context_.precision, transposed_.data(), context_.stream);
  return error == cudaSuccess ? walk_->run() : error;
}

template <class T>
Chain<T> Frozen<T>::chain() const {
  Chain<T> chain{};
  chain.branch = branch_;
  chain.weights = transpose_ ? transposed_.data() : forward_.data();
  chain.derivatives = derivatives_.data();
  chain.transpose = transpose_;
  return chain;
}

#define IRF_INSTANTIATE(T)                                                               \
  template Context at_cheapest_precision(const Branch<T>&, const WalkRequest&, Context); \
  template class Frozen<T>;
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
