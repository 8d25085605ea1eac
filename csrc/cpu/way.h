// Which way the CPU kernels go over a branch: tiles of samples that stay in the cache of one core (walk.h), or layer by
// layer through a library's products (layerwise_walk.h). The only place that decides it, by sizes alone;
// `python -m iresnet_fast plan` prints it.
#pragma once

#include <array>
#include <string>

#include "cpu/kernels.h"

namespace irf {

enum class Way { kTiles, kLayers };

// What a call does, in products with all linear maps of the branch.
struct Work {
  int64_t stacked, events;        // `stacked` products, each of so many events per sample
  int64_t chain = 0, probes = 1;  // `chain` products, each of the vectors of all probes
  bool gradients = false;         // weight gradients too, of the events of one product
};

// The time of a way is modelled as a sum of counts, each times a constant. For tiles, of the core that has the most to
// do; for layers, shared by all threads.
constexpr int kTileCounts = 4, kLayerCounts = 5;
struct WayCounts {
  // Multiply-adds of products, those of weight gradients, weights read (once a tile and product), weights packed.
  std::array<double, kTileCounts> tiles;
  // Multiply-adds of matrix products, those of convolutions, weights read (once a product), numbers of the passes
  // between, calls of the library.
  std::array<double, kLayerCounts> layers;
};
// Nanoseconds each.
struct WayConstants {
  std::array<double, kTileCounts> tiles;
  std::array<double, kLayerCounts> layers;
};
extern const WayConstants kDenseConstants, kConvolutionConstants;

template <class T>
WayCounts way_counts(const Branch<T>& branch, const Work& work, int threads, const TileSizes& tiles);

struct WayTimes {
  double tiles, layers;  // modelled nanoseconds
};
WayTimes way_times(const WayCounts& counts, bool dense);

// The faster way, or the one that force_way has set.
template <class T>
Way choose_way(const Branch<T>& branch, const Work& work, const Parallel& parallel, const Kernels<T>& kernels);

// For tests and measurements: "tiles" or "layers" from now on, in all threads; "" chooses by the rule again. Returns
// whether it is one of them.
bool force_way(const std::string& name);

}  // namespace irf
