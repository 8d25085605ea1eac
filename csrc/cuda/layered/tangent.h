// The tangents of a training step, layer by layer: t_0 = v, t_{i+1} = A_i D_i t_i, one launch per product.
#pragma once

#include "cuda/kept.h"
#include "cuda/ops.h"

namespace irf::cuda {

// What a forward walk leaves besides the derivatives when its step is to be trained.
template <class T>
struct Tangent {
  const T* v;               // [B, d]; null: no tangent is wanted
  const KeptRows<T>* kept;  // [L] (host array)
  T* product;               // rows of J v
};

// `derivatives`: rows of D_i [L] (host array), null for an identity. `entry`: room for the rows of D_0 v.
template <class T>
cudaError_t layered_tangent(const Branch<T>& branch, const T* const* weights, const T* const* derivatives,
                            const Tangent<T>& tangent, T* entry, const Context& context);

}  // namespace irf::cuda
