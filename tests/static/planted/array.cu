// An array that is indexed at run time cannot live in registers.
__global__ void __launch_bounds__(32) lookup(float* p, const int* at) {
  float a[64];
  for (int i = 0; i < 64; ++i) a[i] = p[i];
  for (int i = 0; i < 64; ++i) a[at[i]] += a[at[i + 64]];
  for (int i = 0; i < 64; ++i) p[i] = a[i];
}
