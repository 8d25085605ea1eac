// The power chain, layer by layer: one launch per product, and a small one per term for the decisions. A series that
// may stop is enqueued in pieces (device/progress.h).
#pragma once

#include "cuda/chain.h"
#include "cuda/device/context.h"

namespace irf::cuda {

template <class T>
struct LayeredChain {
  LayeredChain(const Chain<T>& chain, const Target& target, Workspace& workspace);

  // `chain`: the one described, or unit probes of it, so many or fewer.
  cudaError_t launch(const Chain<T>& chain, const Context& context) const;

  // Scratch, rows unless said otherwise; none where the chain has no use for it.
  Buffer<T> start;           // v, for a series
  Buffer<T> state[2];        // operands, from one product to the next
  Buffer<T> w;               // w_k where it is asked for itself
  Buffer<T> y[2];            // Neumann vectors: after term k the newest is y[k % 2]
  Buffer<T> partials;        // per term at once, row and tile of columns: <w_k, v>, |w_k|^2
  Buffer<T> limit;           // [items]: stop at |w_k| tail_k <= limit
  Buffer<int> last;          // [items] the term an item ends with at the latest; 0: it has stopped
  Buffer<unsigned> stopped;  // how many of the items, for in_pieces
};

}  // namespace irf::cuda
