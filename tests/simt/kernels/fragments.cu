// The wrappers of csrc/cuda/device/mma.cuh on one warp, for test_fragments.py.
#include "cuda/device/mma.cuh"
#include "python_api.h"

namespace fragments {
namespace {

// `pitch` words from row to row of the 32 that the lanes pass.
__global__ void load(const unsigned* in, unsigned* out, int pitch, bool transposed) {
  __shared__ __align__(16) unsigned rows[32 * 12];
  const int lane = threadIdx.x;
  for (int i = lane; i < 32 * pitch; i += 32) rows[i] = in[i];
  __syncwarp();
  unsigned words[4];
  if (transposed)
    irf::cuda::load_matrices_transposed(words, rows + lane * pitch);
  else
    irf::cuda::load_matrices(words, rows + lane * pitch);
  for (int m = 0; m < 4; ++m) out[lane * 4 + m] = words[m];
}

// Six words of operands a lane, four of A and two of B.
__global__ void multiply(const unsigned* in, float* out, bool bf16) {
  const unsigned* mine = in + 6 * threadIdx.x;
  const unsigned a[4] = {mine[0], mine[1], mine[2], mine[3]}, b[2] = {mine[4], mine[5]};
  float d[4] = {};
  if (bf16)
    irf::cuda::mma_bf16(d, a, b);
  else
    irf::cuda::mma_tf32(d, a, b);
  for (int e = 0; e < 4; ++e) out[threadIdx.x * 4 + e] = d[e];
}

__global__ void convert(const float* in, unsigned* out) {
  const int i = threadIdx.x;
  out[2 * i] = irf::cuda::to_tf32(in[i]);
  out[2 * i + 1] = irf::cuda::to_bf16_pair(in[i], in[31 - i]);
}

}  // namespace
}  // namespace fragments

extern "C" {
SIMT_EXPORT const char* load_matrices(const unsigned* in, unsigned* out, int64_t pitch, int64_t transposed) {
  return simt::guarded([=] { fragments::load<<<1, 32>>>(in, out, int(pitch), transposed != 0); });
}
SIMT_EXPORT const char* multiply_fragments(const unsigned* in, float* out, int64_t bf16) {
  return simt::guarded([=] { fragments::multiply<<<1, 32>>>(in, out, bf16 != 0); });
}
SIMT_EXPORT const char* convert_operands(const float* in, unsigned* out) {
  return simt::guarded([=] { fragments::convert<<<1, 32>>>(in, out); });
}
}
