// The forward walk x -> g(x), with what it leaves for a chain and for the backward pass of a training step.
#pragma once

#include <vector>

#include "cuda/kept.h"

namespace irf::cuda {

// Wanted of a step that is to be trained: t_0 = v, t_{i+1} = A_i D_i t_i.
template <class T>
struct Tangent {
  const T* v;                     // [B, d]; null: no tangent is wanted
  std::vector<KeptRows<T>> kept;  // [L]
  Buffer<T> product;              // rows of J v
};

template <class T>
struct Forward {
  Branch<T> branch;
  std::vector<Buffer<T>> weights;      // [L] packed in the forward form
  const T* x;                          // [B, d]
  std::vector<Buffer<T>> derivatives;  // [L] rows of D_i, none for an identity; or empty: none is wanted
  T* z;                                // [B, d] x + g(x), or null
  T* g;                                // [B, d'], or null
  // With a v, D_i of every stage that is no identity must be wanted, and the rows of `kept` are written too.
  Tangent<T> tangent;
};

}  // namespace irf::cuda
