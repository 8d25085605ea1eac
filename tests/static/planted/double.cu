// A constant without its f.
__global__ void __launch_bounds__(32) scale(float* p) { *p = *p * 1.1; }
