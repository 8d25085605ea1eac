// What the forward pass of a training step with the exact log-determinant leaves for its backward pass: (I + J)^-1 of
// every sample, and, if they are few, the activations of the inner stages and the tangents of all unit vectors there.
#pragma once

#include "cpu/kept_tiles.h"
#include "cpu/walk.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Activations and tangents of a call are kept if they take at most this much, so that d times the activations of a deep
// model stay a small part of its memory; else the backward pass computes them again.
constexpr int64_t kMostKeptBytes = int64_t(2) << 20;

template <class T>
class ExactKept {
 public:
  explicit ExactKept(const Prepared<T>& prepared)
      : prepared_(prepared), size_(prepared.branch.in_size()), inverses_(size_ * size_ * prepared.layout.slots()) {
    const int64_t walk = walk_before(prepared.branch.stages);
    has_walk_ = KeptTiles<T>(prepared, 1).count() * walk * int64_t(sizeof(T)) <= kMostKeptBytes;
    tile_size_ = inverses_ + (has_walk_ ? walk : 0);
  }

  int64_t size() const { return tiles().size(); }
  void write_header(T* kept) const { tiles().write_header(kept); }
  bool fits(const T* kept, int64_t kept_size) const { return tiles().fits(kept, kept_size); }

  // Whether activations and tangents are kept.
  bool has_walk() const { return has_walk_; }
  // Whether the tangents of stage i are: those that are the columns of a matrix, scaled, cost nothing.
  bool keeps_tangents(int i) const { return i > (prepared_.layout.dense ? 1 : 0); }

  // Inverses of the samples of a tile, [d * d][slots]; entry (j, i) of all of them begins at (j * d + i) * slots.
  const T* inverses(const T* kept, int64_t chunk, int64_t first) const { return kept + tiles().piece(chunk, first); }
  T* inverses(T* kept, int64_t chunk, int64_t first) const { return kept + tiles().piece(chunk, first); }

  // Points a_i of stages 1 .. L-1 into `kept`, and h_i where it tells the derivatives: it may overwrite a_i.
  void point_activations(T* kept, int64_t chunk, int64_t first, T** a, T** h) const {
    T* walk = inverses(kept, chunk, first) + inverses_;
    for (int i = 1; i < prepared_.branch.stages; ++i) {
      a[i] = walk + walk_before(i);
      if (value(i)) h[i] = a[i];
    }
  }

  // Points D_i t_i for unit vector j into `kept` where h_i tells the derivatives, else t_i.
  void point_tangents(T* kept, int64_t chunk, int64_t first, int64_t j, T** t, T** dt) const {
    T* walk = inverses(kept, chunk, first) + inverses_;
    for (int i = 1; i < prepared_.branch.stages; ++i)
      if (keeps_tangents(i)) (value(i) ? dt : t)[i] = walk + walk_before(i) + (1 + j) * tile(i);
  }

  // Convolutions read h_i and D_i t_i beyond what is written there.
  void clear_pads(T* const* tiles) const {
    for (int i = 1; i < prepared_.branch.stages; ++i)
      if (value(i) && !prepared_.layout.dense)
        zero_uncovered(prepared_.layout, tiles[i], prepared_.branch.stage[i].in_channels);
  }

 private:
  KeptTiles<T> tiles() const { return {prepared_, tile_size_}; }
  bool value(int i) const { return known_from_value(prepared_.branch.stage[i]); }
  int64_t tile(int i) const { return prepared_.layout.size(prepared_.branch.stage[i].in_channels); }
  // Numbers that a tile keeps of stages 1 .. end - 1.
  int64_t walk_before(int end) const {
    int64_t numbers = 0;
    for (int i = 1; i < end; ++i) numbers += tile(i) * (keeps_tangents(i) ? 1 + size_ : 1);
    return numbers;
  }

  const Prepared<T>& prepared_;
  int64_t size_;      // d
  int64_t inverses_;  // numbers of a tile's inverses
  int64_t tile_size_;
  bool has_walk_;
};

template <class T>
int64_t exact_kept_size(const Branch<T>& branch, const Parallel& parallel) {
  Workspace workspace;
  const Prepared<T> prepared(branch, parallel, workspace);
  return ExactKept<T>(prepared).size();
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
