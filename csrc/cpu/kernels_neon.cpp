#define IRF_ISA neon
#define IRF_NEON
#include "cpu/kernels_table.h"
