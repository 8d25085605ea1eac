// Resident walks: a block takes a group of items through every product, and their state never leaves shared memory.
// This file says where things lie: the rows of a group in the state and in global memory, and which threads look after
// which item. The products are in resident/product.cuh; the plan (plan/plan.h) has the numbers.
//
// An item is one event of one probe: item i is probe i / batch of sample i % batch. A group is plan.items consecutive
// items, and the slot of an item is its number within its group. The last group may have fewer items than slots; what
// lies in such a slot is never stored.
//
// A pixel of an item has a number in each of four orders. As an example take images of 14 x 14 and kernels of 3 x 3
// (radius 1), and of the item in slot 1, which is of sample 5, the pixel in line y = 1 at x = 3:
//   local row         slot * pixels + y * width + x = 196 + 14 + 3 = 213. It indexes event vectors and derivatives
//                     in shared memory.
//   row of the batch  sample * pixels + y * width + x = 5 * 196 + 14 + 3 = 997. It indexes derivatives and what is
//                     kept for a backward pass in global memory.
//   state position    origin + slot * image_positions + y * row_positions + x = 16 + 225 + 15 + 3 = 259. The state has
//                     `radius` positions of zeros behind each line (row_positions = 15) and as many lines of zeros
//                     behind each image (image_positions = 15 * 15), above the first one too (origin = 15 + 1): the
//                     zero padding of a convolution. A tap (dy, dx) is so an offset of dy * row_positions + dx.
//   lane row          (slot * height + y) * lane_width + x = (14 + 1) * 16 + 3 = 243. Narrow tiles count so:
//                     lane_width is the width rounded up to 8 lanes, which keeps loads free of bank conflicts, and
//                     rows 14 and 15 of each line are idle.
// A dense sample is an image of one pixel: all four numbers but the row of the batch are its slot.
#pragma once

#include "cuda/resident/tiles.cuh"

namespace irf::cuda {
namespace {

__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int block_threads() { return static_cast<int>(blockDim.x); }

// The items that a block works on: `count` of them from `first` on.
struct ItemGroup {
  int64_t first, batch;
  int count;

  __device__ __forceinline__ ItemGroup(int64_t index, int items, int64_t all_items, int64_t batch_)
      : first(index * items), batch(batch_), count(items) {
    if (all_items - first < items) count = static_cast<int>(all_items - first);
  }
  __device__ __forceinline__ int64_t sample(int slot) const { return (first + slot) % batch; }
  __device__ __forceinline__ int64_t probe(int slot) const { return (first + slot) / batch; }
};

// Three numbers for each row of a tile, which counts either local rows or lane rows: the element of the state where the
// row begins, its local row, and its row of the batch. Of an idle row, state() is ~e: element e may be read in its
// place, and nothing may be stored.
struct RowTable {
  int* table;
  int padded;  // rows, with those that fill the last tile

  __device__ __forceinline__ int& state(int row) const { return table[row]; }
  __device__ __forceinline__ int& local(int row) const { return table[padded + row]; }
  __device__ __forceinline__ int& global(int row) const { return table[2 * padded + row]; }
};

template <class T>
struct Block {
  const ResidentPlan& plan;
  T* shared;

  __device__ __forceinline__ T* state() const { return shared + plan.state; }
  __device__ __forceinline__ RowTable rows() const {
    return {reinterpret_cast<int*>(shared + plan.rows), plan.padded_rows};
  }
  __device__ __forceinline__ RowTable lane_rows() const {
    return {reinterpret_cast<int*>(shared + plan.lane_rows), plan.padded_lane_rows};
  }

  __device__ void clear_state() const {
    for (int i = kVector<T> * thread_index(); i < plan.positions * plan.pitch; i += kVector<T> * block_threads())
      store16(state() + i, zero16<T>());
  }

  __device__ void fill_rows(const ItemGroup& group) const {
    fill_rows(rows(), plan.width, group);
    if (plan.lane_rows != plan.rows) fill_rows(lane_rows(), plan.lane_width, group);
  }

  // Copies the rows of the group's samples to shared memory, `size` elements per sample. The caller waits.
  __device__ void load_rows(T* to, const T* from, int size, const ItemGroup& group) const {
    for (int slot = 0, run; slot < group.count; slot += run) {
      const int64_t sample = group.sample(slot), left = group.batch - sample;
      run = left < group.count - slot ? static_cast<int>(left) : group.count - slot;
      copy_async(to + slot * size, from + sample * size, run * size);
    }
  }

  // Visits the elements of the group's events in torch's order, [item][channel][pixel], as visit(slot, index in the
  // event, local row, channel). Channels from event_channels to `channels` are padding.
  template <class Visit>
  __device__ __forceinline__ void for_each_element(const ItemGroup& group, int channels, Visit visit) const {
    const int size = channels * plan.pixels;
    for (int i = thread_index(); i < group.count * size; i += block_threads()) {
      const int slot = i / size, index = i - slot * size, channel = index / plan.pixels;
      visit(slot, index, slot * plan.pixels + index - channel * plan.pixels, channel);
    }
  }

 private:
  __device__ void fill_rows(const RowTable& to, int width, const ItemGroup& group) const {
    for (int row = thread_index(); row < to.padded; row += block_threads()) {
      const int line = row / width, x = row - line * width, slot = line / plan.height, y = line - slot * plan.height;
      const bool real = slot < group.count && x < plan.width;
      const int pixel = y * plan.width + x;
      const int position = slot < group.count ? slot * plan.image_positions + y * plan.row_positions + x : x;
      const int at = (plan.origin + position) * plan.pitch;
      to.state(row) = real ? at : ~at;
      to.local(row) = real ? slot * plan.pixels + pixel : 0;
      to.global(row) = real ? static_cast<int>(group.sample(slot)) * plan.pixels + pixel : 0;
    }
  }
};

// The threads of a block are dealt out evenly to the slots of a group. This thread is number `index` of the `count`
// threads that look after the item in `slot`: they activate it, sum over it, step it.
struct ItemThreads {
  int slot, index, count;

  __device__ __forceinline__ explicit ItemThreads(const ResidentPlan& plan) : count(block_threads() / plan.items) {
    slot = thread_index() / count;
    index = thread_index() - slot * count;
  }

  // Visits this thread's vectors of 16 bytes as visit(local row, channel).
  template <class T, class Visit>
  __device__ __forceinline__ void for_each_vector(const ResidentPlan& plan, int pitch, Visit visit) const {
    const int vectors = pitch / kVector<T>;
    for (int i = index; i < plan.pixels * vectors; i += count) {
      const int row = i / vectors;
      visit(slot * plan.pixels + row, (i - row * vectors) * kVector<T>);
    }
  }

  // Sums each of `values` over the item, in an order that depends on nothing but the plan; every thread of the item
  // gets the sums. Between two calls there must be a barrier.
  template <class T, int COUNT>
  __device__ __forceinline__ void sum(T* scratch, T (&values)[COUNT]) const {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) values[i] = sum_lanes(values[i], count < kWarp ? count : kWarp);
    if (count <= kWarp) return;
    const int warp = thread_index() / kWarp, warps = count / kWarp;
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
      if (thread_index() % kWarp == 0) scratch[COUNT * warp + i] = values[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNT; ++i) values[i] = T(0);
    for (int w = slot * warps; w < (slot + 1) * warps; ++w)
#pragma unroll
      for (int i = 0; i < COUNT; ++i) values[i] += scratch[COUNT * w + i];
  }
};

}  // namespace
}  // namespace irf::cuda
