// What `Prepared` decides about a branch, in plain numbers.
#pragma once

#include "cpu/kernels.h"
#include "cpu/prepared.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
TileSizes tile_sizes(const Branch<T>& branch, const Parallel& parallel) {
  Workspace workspace;
  const Prepared<T> prepared(branch, parallel, workspace);
  TileSizes sizes{prepared.chunks, prepared.samples_per_tile, 0, int64_t(prepared.layout.vectors) * kLanes<T>};
  for (int64_t chunk = 0; chunk < prepared.chunks; ++chunk)
    sizes.tiles = max_of(
        sizes.tiles, divide_up(prepared.begin(chunk + 1) - prepared.begin(chunk), int64_t(prepared.samples_per_tile)));
  return sizes;
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
