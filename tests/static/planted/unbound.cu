// No __launch_bounds__.
__global__ void set(float* p) { *p = 1; }
