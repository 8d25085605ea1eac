// x with x + g(x) = z by fixed-point iterations, layer by layer. Iterations are enqueued in pieces (device/progress.h)
// until all samples have stopped; in a capture, where nobody can look, captured_iterations of them. What is frozen
// costs empty blocks.
#pragma once

#include <vector>

#include "cuda/layered/forward.h"
#include "iresnet_fast/anderson.h"

namespace irf::cuda {

// Device memory: rows, and numbers of every sample.
template <class T>
struct InverseState {
  T *z, *x, *step;
  T *best, *partials;
  int *waited, *active;
  unsigned* stopped;           // how many samples have; null where nobody looks
  AndersonState<T>* anderson;  // what is known of the samples of an accelerated inverse, else null
  int* undone;                 // the sample's last iterate is
  T* history;                  // rows of kHistory iterates, then of as many residuals
};

template <class T>
struct LayeredInverseScratch {
  InverseState<T> state;
  std::vector<StageRows<T>> stages;  // h only

  LayeredInverseScratch(const Branch<T>& branch, bool accelerated, Precision precision, const Card& card,
                        Carver& carver);
};

// `weights`: [L] (host array), packed in the forward form.
template <class T>
cudaError_t layered_inverse(const Branch<T>& branch, const T* const* weights, const ResidualInverseOperands<T>& op,
                            const LayeredInverseScratch<T>& scratch, const Context& context);

}  // namespace irf::cuda
