// An inner loop that rounds the operands of tensor cores.
template <int PRECISION, int ROWS, int COLUMNS>
struct FragmentTile {};

__device__ unsigned rounded(const float* p) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(p[1]), "f"(p[0]));
  return pair;
}

template <class Tile>
__global__ void __launch_bounds__(32) stage_product_kernel(float* p, int n) {
  __shared__ float b[1024];
  for (int i = threadIdx.x; i < 1024; i += 32) b[i] = p[i];
  __syncthreads();
  float d[4] = {};
#pragma unroll 1
  for (int i = 0; i < n; ++i) {
    const unsigned x = rounded(b + 2 * i), y = rounded(b + 2 * i + threadIdx.x);
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%4,%5}, {%4,%5}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(x), "r"(y));
  }
  for (int e = 0; e < 4; ++e) p[e] = d[e];
}
template __global__ void stage_product_kernel<FragmentTile<2, 2, 8>>(float*, int);
