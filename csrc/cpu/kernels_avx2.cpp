#define IRF_ISA avx2
#include "cpu/kernels_table.h"
