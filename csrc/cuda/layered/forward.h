// The forward walk x -> g(x), layer by layer: what it leaves of every stage is up to the caller.
#pragma once

#include <vector>

#include "cuda/device/workspace.h"
#include "cuda/ops.h"

namespace irf::cuda {

// Rows of one stage's input a: itself, h = phi(a), which are operands, d = phi'(a), e = phi''(a). Null: not wanted.
template <class T>
struct StageRows {
  T *a, *h, *d, *e;
};

template <class T>
struct LayeredForward {
  Branch<T> branch;
  const T* const* weights;     // [L], packed in the forward form
  const T* x;                  // [B, d]
  const StageRows<T>* stages;  // [L] (host array), or null: nothing is wanted
  T* z;                        // [B, d] x + g(x), or null
  T* g;                        // [B, d'], or null
};

// Scratch: the rows of h that nobody keeps, and those of g.
template <class T>
struct LayeredForwardScratch {
  std::vector<StageRows<T>> stages;  // h always given
  T* g;

  LayeredForwardScratch(const LayeredForward<T>& forward, Precision precision, Carver& carver);
};

// Rows of D_i for every stage that is no identity, null for the others: what Chain::derivatives wants.
template <class T>
std::vector<T*> carve_derivatives(const Branch<T>& branch, Precision precision, Carver& carver);

template <class T>
cudaError_t layered_forward(const LayeredForward<T>& forward, const LayeredForwardScratch<T>& scratch,
                            const Context& context);

// The middle of the walk alone, from h_0 to h_{L-1}: all products but the last, each with the next activation. `active`
// as in StageProduct.
template <class T>
cudaError_t layered_hidden(const Branch<T>& branch, const T* const* weights, const StageRows<T>* stages,
                           const int* active, const Context& context);

}  // namespace irf::cuda
