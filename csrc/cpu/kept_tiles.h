// What the forward pass of a training step leaves for the backward pass, tile by tile. A few words in front say which
// tiles: the number of threads or the instruction set may change in between, and the backward pass then computes
// everything again.
#pragma once

#include "cpu/prepared.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Where in the memory of a call each of its tiles keeps `tile_size` numbers.
template <class T>
class KeptTiles {
 public:
  KeptTiles(const Prepared<T>& prepared, int64_t tile_size) : prepared_(prepared), tile_size_(tile_size) {}

  // Numbers that a tile keeps.
  int64_t tile_size() const { return tile_size_; }
  int64_t count() const { return tiles_before(prepared_.chunks); }
  int64_t size() const { return kHeader + count() * tile_size_; }

  void write_header(T* kept) const {
    const Header header = this->header();
    std::memcpy(kept, &header, sizeof header);
  }

  bool fits(const T* kept, int64_t kept_size) const {
    const Header header = this->header();
    return kept_size == size() && std::memcmp(kept, &header, sizeof header) == 0;
  }

  // The piece of the tile of `chunk` that begins with sample `first`.
  int64_t piece(int64_t chunk, int64_t first) const {
    const int64_t tile = tiles_before(chunk) + (first - prepared_.begin(chunk)) / prepared_.samples_per_tile;
    return kHeader + tile * tile_size_;
  }

 private:
  struct Header {
    int64_t chunks, samples_per_tile, stride, pitch, lanes, tile_size;
  };
  static constexpr int64_t kHeader = 64 / sizeof(T);  // one cache line
  static_assert(sizeof(Header) <= 64, "the header must fit its cache line");

  Header header() const {
    const Layout<T>& layout = prepared_.layout;
    return {prepared_.chunks, prepared_.samples_per_tile, layout.stride, layout.pitch, kLanes<T>, tile_size_};
  }

  int64_t tiles_before(int64_t chunk) const {
    int64_t tiles = 0;
    for (int64_t c = 0; c < chunk; ++c)
      tiles += divide_up(prepared_.begin(c + 1) - prepared_.begin(c), int64_t(prepared_.samples_per_tile));
    return tiles;
  }

  const Prepared<T>& prepared_;
  int64_t tile_size_;
};

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
