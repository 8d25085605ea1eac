// A hundred live numbers in the 64 registers that blocks of 1024 threads allow.
__global__ void __launch_bounds__(1024) spill(float* p, int n) {
  float a[100];
  for (int i = 0; i < 100; ++i) a[i] = p[i * n];
  for (int k = 0; k < n; ++k)
    for (int i = 0; i < 100; ++i) a[i] = a[i] * a[(i + 7) % 100] + k;
  for (int i = 0; i < 100; ++i) p[i * n] = a[i];
}
