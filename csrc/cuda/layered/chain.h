// The power chain, layer by layer: one launch per product, and a small one per term for the decisions. A series that
// may stop is enqueued in pieces (device/progress.h).
#pragma once

#include "cuda/chain.h"
#include "cuda/device/workspace.h"
#include "cuda/ops.h"

namespace irf::cuda {

// Device memory; rows unless said otherwise.
template <class T>
struct LayeredChainScratch {
  T* start;           // v, for a series
  T* state[2];        // operands, from one product to the next
  T* w;               // w_k where it is asked for itself
  T* y[2];            // Neumann vectors: after term k the newest is y[k % 2]
  T* partials;        // per row and tile of columns: <w_k, v>, |w_k|^2
  T* limit;           // [items]: stop at |w_k| tail_k <= limit
  int* last;          // [items] the term an item ends with at the latest; 0: it has stopped
  unsigned* stopped;  // how many of the items, for in_pieces

  LayeredChainScratch(const Chain<T>& chain, Precision precision, const Card& card, Carver& carver);
};

template <class T>
cudaError_t layered_chain(const Chain<T>& chain, const LayeredChainScratch<T>& scratch, const Context& context);

}  // namespace irf::cuda
