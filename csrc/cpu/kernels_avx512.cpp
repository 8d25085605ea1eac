#define IRF_ISA avx512
#include "cpu/kernels_table.h"
