// Matrix products and convolutions of somebody else's library, as the layer-by-layer way asks for them. A struct of
// function pointers, as Parallel is: kernel units of every instruction set include it.
//
// Events are [samples][channels][pixels], as the caller's tensors have them.
#pragma once

#include <cstdint>

namespace irf {

// The products with the weights of one branch: map i is that of stage i, or, behind those of all stages, that of a
// trace which has a right stage. Each call runs on all threads of the library.
template <class T>
struct LibraryProducts {
  void* context;

  // A_i of `events`, or A_i^T: linear map i, of a stage without its bias. The result belongs to the library and is
  // valid until the next call.
  const T* (*multiply)(void* context, int i, bool transpose, const T* events, int64_t samples);

  // result [out, in, kernel, kernel] = or, to `accumulate`, += the gradient of <grad, A_i events> by the weight.
  void (*weight_gradient)(void* context, int i, const T* events, const T* grad, int64_t samples, bool accumulate,
                          T* result);
};

}  // namespace irf
