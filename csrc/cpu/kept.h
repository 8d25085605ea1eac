// What the forward pass of a training step leaves for the backward pass, tile by tile as the walks hold it, so that
// neither pass copies: h_i and D t_i of every inner stage, or a_i and t_i where h_i does not tell the derivatives.
#pragma once

#include "cpu/kept_tiles.h"
#include "cpu/walk.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
class Kept : public KeptTiles<T> {
 public:
  explicit Kept(const Prepared<T>& prepared) : KeptTiles<T>(prepared, numbers(prepared)), prepared_(prepared) {}

  // Where the tile of `chunk` that begins with sample `first` keeps them.
  T* piece(T* kept, int64_t chunk, int64_t first) const { return kept + KeptTiles<T>::piece(chunk, first); }

  // Points a, h and the tangents of stages 1 .. L-1 into `piece`. Where h_i is enough, it may overwrite a_i.
  void point(T* piece, T** a, T** h, T** tangent) const {
    each_stage(piece, [&](int i, T* value, T* tangents) {
      a[i] = value;
      if (known_from_value(prepared_.branch.stage[i])) h[i] = value;
      tangent[i] = tangents;
    });
  }

  // Products read h_i and D t_i beyond what is written there.
  void clear_pads(T* piece) const {
    each_stage(piece, [&](int i, T* value, T* tangents) {
      const Stage<T>& stage = prepared_.branch.stage[i];
      if (!known_from_value(stage)) return;
      zero_uncovered(prepared_.layout, value, stage.in_channels);
      zero_uncovered(prepared_.layout, tangents, stage.in_channels);
    });
  }

 private:
  static int64_t numbers(const Prepared<T>& prepared) {
    int64_t size = 0;
    for (int i = 1; i < prepared.branch.stages; ++i)
      size += 2 * prepared.layout.size(prepared.branch.stage[i].in_channels);
    return size;
  }

  // Calls body(i, value, tangent) for stages 1 .. L-1.
  template <class Body>
  void each_stage(T* piece, const Body& body) const {
    for (int i = 1; i < prepared_.branch.stages; ++i) {
      const int64_t size = prepared_.layout.size(prepared_.branch.stage[i].in_channels);
      body(i, piece, piece + size);
      piece += 2 * size;
    }
  }

  const Prepared<T>& prepared_;
};

template <class T>
int64_t kept_size(const Branch<T>& branch, const Parallel& parallel) {
  Workspace workspace;
  const Prepared<T> prepared(branch, parallel, workspace);
  return Kept<T>(prepared).size();
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
