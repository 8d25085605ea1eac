// An inner loop that does more than products.
template <class T>
struct OuterTile {};

template <class Tile>
__global__ void __launch_bounds__(32) mixed(float* p, int n) {
  __shared__ float b[32];
  b[threadIdx.x] = p[threadIdx.x];
  __syncthreads();
  float a = p[0];
  int h = n;
#pragma unroll 1
  for (int i = 0; i < n; ++i)
#pragma unroll
    for (int j = 0; j < 40; ++j) {
      a = a * b[i] + 1.5f;
      h = (h ^ j) * 0x9e3779b1;
    }
  p[2] = a;
  p[3] = h;
}
template __global__ void mixed<OuterTile<float>>(float*, int);
