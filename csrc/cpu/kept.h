// What the forward pass of a training step leaves for the backward pass, tile by tile as the walks hold it, so that
// neither pass copies: h_i and D t_i of every inner stage, or a_i and t_i where h_i does not tell the derivatives. A
// few words in front say which tiles: the number of threads or the instruction set may change in between, and the
// backward pass then computes everything again.
#pragma once

#include "cpu/walk.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
class Kept {
 public:
  explicit Kept(const Prepared<T>& prepared) : prepared_(prepared) {
    for (int i = 1; i < prepared.branch.stages; ++i)
      tile_size_ += 2 * prepared.layout.size(prepared.branch.stage[i].in_channels);
  }

  int64_t size() const { return kHeader + tiles_before(prepared_.chunks) * tile_size_; }

  void write_header(T* kept) const {
    const Header header = this->header();
    std::memcpy(kept, &header, sizeof header);
  }

  bool fits(const T* kept, int64_t kept_size) const {
    const Header header = this->header();
    return kept_size == size() && std::memcmp(kept, &header, sizeof header) == 0;
  }

  // Numbers that a tile keeps.
  int64_t tile_size() const { return tile_size_; }

  // Where the tile of `chunk` that begins with sample `first` keeps them.
  T* piece(T* kept, int64_t chunk, int64_t first) const {
    const int64_t tile = tiles_before(chunk) + (first - prepared_.begin(chunk)) / prepared_.samples_per_tile;
    return kept + kHeader + tile * tile_size_;
  }

  // Points a, h and the tangents of stages 1 .. L-1 into `piece`. Where h_i is enough, it may overwrite a_i.
  void point(T* piece, T** a, T** h, T** tangent) const {
    each_stage(piece, [&](int i, T* value, T* tangents) {
      a[i] = value;
      if (known_from_value(prepared_.branch.stage[i].activation)) h[i] = value;
      tangent[i] = tangents;
    });
  }

  // Products read h_i and D t_i beyond what is written there.
  void clear_pads(T* piece) const {
    each_stage(piece, [&](int i, T* value, T* tangents) {
      const Stage<T>& stage = prepared_.branch.stage[i];
      if (!known_from_value(stage.activation)) return;
      zero_uncovered(prepared_.layout, value, stage.in_channels);
      zero_uncovered(prepared_.layout, tangents, stage.in_channels);
    });
  }

 private:
  struct Header {
    int64_t chunks, samples_per_tile, stride, lanes;
  };
  static constexpr int64_t kHeader = 64 / sizeof(T);  // one cache line
  static_assert(sizeof(Header) <= 64, "the header must fit its cache line");

  Header header() const { return {prepared_.chunks, prepared_.samples_per_tile, prepared_.layout.stride, kLanes<T>}; }

  // Calls body(i, value, tangent) for stages 1 .. L-1.
  template <class Body>
  void each_stage(T* piece, const Body& body) const {
    for (int i = 1; i < prepared_.branch.stages; ++i) {
      const int64_t size = prepared_.layout.size(prepared_.branch.stage[i].in_channels);
      body(i, piece, piece + size);
      piece += 2 * size;
    }
  }

  int64_t tiles_before(int64_t chunk) const {
    int64_t tiles = 0;
    for (int64_t c = 0; c < chunk; ++c)
      tiles += divide_up(prepared_.begin(c + 1) - prepared_.begin(c), int64_t(prepared_.samples_per_tile));
    return tiles;
  }

  const Prepared<T>& prepared_;
  int64_t tile_size_ = 0;
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
