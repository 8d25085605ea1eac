// Resident walks: one block takes a group of items through every stage, and the state never leaves shared memory. Here:
// the state and its tables, events in and out, sums over items. The products are in
// resident/product.cuh; where everything lies comes from the plan (plan/plan.h).
#pragma once

#include "cuda/resident/tiles.cuh"

namespace irf::cuda {
namespace {

// ---- The state and its tables ----

__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int block_threads() { return static_cast<int>(blockDim.x); }

// The items a block works on: `count` from `first` on, and which probes and samples they are.
struct Group {
  int64_t first, batch;
  int count;

  __device__ __forceinline__ Group(int64_t index, int items, int64_t all_items, int64_t batch_)
      : first(index * items), batch(batch_), count(items) {
    if (all_items - first < items) count = static_cast<int>(all_items - first);
  }
  __device__ __forceinline__ int64_t sample(int slot) const { return (first + slot) % batch; }
  __device__ __forceinline__ int64_t probe(int slot) const { return (first + slot) / batch; }
};

// A table of rows: where a row is in the state (of an idle row ~where: what it may read), its number among the rows of
// the group, and its number among the rows of the batch.
struct Rows {
  int* table;
  int padded;

  __device__ __forceinline__ int& state(int row) const { return table[row]; }
  __device__ __forceinline__ int& local(int row) const { return table[padded + row]; }
  __device__ __forceinline__ int& global(int row) const { return table[2 * padded + row]; }
};

template <class T>
struct Block {
  const ResidentPlan& plan;
  T* shared;

  __device__ __forceinline__ T* state() const { return shared + plan.state; }
  // Every pixel of every item, in order.
  __device__ __forceinline__ Rows rows() const {
    return {reinterpret_cast<int*>(shared + plan.rows), plan.padded_rows};
  }
  __device__ __forceinline__ Rows lane_rows() const {
    return {reinterpret_cast<int*>(shared + plan.lane_rows), plan.padded_lane_rows};
  }

  __device__ void clear_state() const {
    for (int i = kVector<T> * thread_index(); i < plan.positions * plan.pitch; i += kVector<T> * block_threads())
      store16(state() + i, zero16<T>());
  }

  __device__ void fill_rows(const Group& group) const {
    fill_rows(rows(), plan.width, group);
    if (plan.lane_rows != plan.rows) fill_rows(lane_rows(), plan.lane_width, group);
  }

  // Copies the rows of the group's samples to shared memory, each sample `size` elements. The caller waits.
  __device__ void load_rows(T* to, const T* from, int size, const Group& group) const {
    for (int slot = 0, run; slot < group.count; slot += run) {
      const int64_t sample = group.sample(slot), left = group.batch - sample;
      run = left < group.count - slot ? static_cast<int>(left) : group.count - slot;
      copy_async(to + slot * size, from + sample * size, run * size);
    }
  }

  // Visits the elements of the group's events in torch's order, [item][channel][pixel], as visit(slot, index in the
  // event, local row, channel). Channels from event_channels to `channels` are padding.
  template <class Visit>
  __device__ __forceinline__ void for_each_element(const Group& group, int channels, Visit visit) const {
    const int size = channels * plan.pixels;
    for (int i = thread_index(); i < group.count * size; i += block_threads()) {
      const int slot = i / size, index = i - slot * size, channel = index / plan.pixels;
      visit(slot, index, slot * plan.pixels + index - channel * plan.pixels, channel);
    }
  }

 private:
  __device__ void fill_rows(const Rows& to, int width, const Group& group) const {
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

// ---- Sums over an item ----

// The threads of a block, shared out evenly over the items of a group.
struct Share {
  int slot, index, threads;  // this thread is the index-th of `threads` of item `slot`

  __device__ __forceinline__ explicit Share(const ResidentPlan& plan) : threads(block_threads() / plan.items) {
    slot = thread_index() / threads;
    index = thread_index() - slot * threads;
  }

  // Visits this thread's vectors of 16 bytes as visit(local row, channel).
  template <class T, class Visit>
  __device__ __forceinline__ void for_each_vector(const ResidentPlan& plan, int pitch, Visit visit) const {
    const int vectors = pitch / kVector<T>;
    for (int i = index; i < plan.pixels * vectors; i += threads) {
      const int row = i / vectors;
      visit(slot * plan.pixels + row, (i - row * vectors) * kVector<T>);
    }
  }

  // Sums each of `values` over the item, in an order that depends on nothing but the plan; every thread of the item
  // gets the sums. Between two calls there must be a barrier.
  template <class T, int COUNT>
  __device__ __forceinline__ void sum(T* scratch, T (&values)[COUNT]) const {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) values[i] = sum_lanes(values[i], threads < kWarp ? threads : kWarp);
    if (threads <= kWarp) return;
    const int warp = thread_index() / kWarp, warps = threads / kWarp;
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
