// What follows a product, row by row: the form of an epilogue, and how a kernel runs one.
#pragma once

#include <type_traits>

#include "cuda/layered/row_place.cuh"

namespace irf::cuda {

// An epilogue is a struct of pointers, passed by value, with
//   static constexpr int kUnroll;  // rows a thread has in flight: 1 or 2
//   __device__ void begin();       // once a thread
//   template <int LANES>
//   __device__ void apply(const RowPlace&, int column, bool inside, const Vector<T>& sums[, const Ahead&]);
// LANES adjacent lanes hold one row of a tile and whole warps call together, so that sum_lanes(.., LANES) sums over a
// row; `inside` is false past the last row or column, where nothing may be stored. The number of the column tile is
// column / (LANES * kVector<T>). What an epilogue reads from global memory it may read ahead, for kUnroll rows before
// the first is used:
//   struct Ahead { .. };
//   __device__ Ahead load(const RowPlace&, int column, bool inside) const;
template <class Epilogue, class = void>
struct EpilogueRow {
  __device__ void load(const Epilogue&, const RowPlace&, int, bool) {}
  template <int LANES, class V>
  __device__ void apply(Epilogue& epilogue, const RowPlace& place, int column, bool inside, const V& sums) const {
    epilogue.template apply<LANES>(place, column, inside, sums);
  }
};

template <class Epilogue>
struct EpilogueRow<Epilogue, std::void_t<typename Epilogue::Ahead>> {
  typename Epilogue::Ahead ahead;
  __device__ void load(const Epilogue& epilogue, const RowPlace& place, int column, bool inside) {
    ahead = epilogue.load(place, column, inside);
  }
  template <int LANES, class V>
  __device__ void apply(Epilogue& epilogue, const RowPlace& place, int column, bool inside, const V& sums) const {
    epilogue.template apply<LANES>(place, column, inside, sums, ahead);
  }
};

}  // namespace irf::cuda
