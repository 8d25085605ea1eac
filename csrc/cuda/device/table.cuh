// Rows of a table reach the GPU as kernel arguments: these are copied when the kernel is launched (so the host's rows
// may die) and captured in a CUDA graph, which a copy from pageable host memory is not.
#pragma once

#include "cuda/device/device.cuh"

namespace irf::cuda {

constexpr int kArgumentBytes = 4096;  // of one kernel, on every architecture and driver

// As many rows as fit beside `Others` bytes of further arguments.
template <class Row, int Others>
struct Page {
  static constexpr int kRows = (kArgumentBytes - Others) / static_cast<int>(sizeof(Row));
  static_assert(kRows > 0 && alignof(Row) <= 8, "a row must fit");
  Row row[kRows];
};

namespace {

template <class Row>
using TablePage = Page<Row, 16>;

template <class Row>
__global__ void __launch_bounds__(kWarp) store_page(const __grid_constant__ TablePage<Row> page, Row* table, int rows) {
  for (int i = threadIdx.x; i < rows; i += blockDim.x) table[i] = page.row[i];
}

// Puts `count` rows at `table`.
template <class Row>
void upload(const Row* rows, int count, Row* table, cudaStream_t stream) {
  for (int first = 0; first < count; first += TablePage<Row>::kRows) {
    TablePage<Row> page;
    const int here = count - first < TablePage<Row>::kRows ? count - first : TablePage<Row>::kRows;
    for (int i = 0; i < here; ++i) page.row[i] = rows[first + i];
    store_page<Row><<<1, kWarp, 0, stream>>>(page, table + first, here);
  }
}

}  // namespace
}  // namespace irf::cuda
